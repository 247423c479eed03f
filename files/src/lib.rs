//! Files that an operator gives to Tidegate, and files that Tidegate makes.
//!
//! [`Settling`] says when files that may be changed at any time can be read again, [`pem`] reads PEM and says at which line
//! it goes wrong, [`validity`] tells how long a certificate is good, [`private`] makes files and directories that other users of the
//! machine cannot read, [`settings!`] declares what they set. Nothing here knows what a file is for.

pub mod pem;
pub mod private;
pub mod settings;
mod settled;
pub mod validity;

pub use settings::SettingError;
pub use settled::{LOOK_INTERVAL, Look, SETTLE_TIME, Settling, Snapshot};
