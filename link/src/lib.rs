//! Between edge and worker: what the one asks of the other ([`Upstream`]), the passport, and the bytes that go back to a
//! device. In one process the worker implements [`Upstream`] itself and no socket is involved; between processes there are
//! [`wire`] and [`mux`], [`token`] for the passport and [`tls`] for the socket. [`Bind`] is where connections come, of edges as
//! of devices.

mod bind;
mod inherited;
mod limits;
pub mod metrics;
pub mod mux;
mod open;
mod outgoing;
mod passport;
mod public_key;
mod qos_set;
pub mod tls;
pub mod token;
mod upstream;
pub mod wire;

pub use bind::{Bind, BindError, name_of_nth, split_host_port};
pub use files::{SettingError, settings};
pub use inherited::Inherited;
pub use limits::Limits;
pub use mqtt::ConnectionId;
pub use open::{AuthenticationOutcome, Flow, FlowState, Open, Peer, Resume, TopicAlias};
pub use outgoing::{Outgoing, SHARED_BYTES_MIN};
pub use passport::{Action, Attributes, Effect, Passport, PassportToken, Rule};
pub use public_key::{KEYS_MAX, KeySet, PublicKey};
pub use qos_set::QosSet;
pub use tls::{LinkTerms, LinkTls, LinkTlsConfig, LinkTlsError};
pub use token::{ExchangeKey, KeyError, PassportSigner, PassportVerifier, TokenError, Voucher, read_trusted};
pub use upstream::{CloseCause, Event, Stream, Upstream};
