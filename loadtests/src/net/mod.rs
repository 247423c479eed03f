//! The light client: non-blocking sockets driven by one epoll loop per thread, no task or timer per message.

pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod establish;
pub(crate) mod packet;
pub(crate) mod reactor;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod websocket;
