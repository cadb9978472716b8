//! Byte streams that are both read and written, whatever carries them.

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection: a socket, a TLS stream, an in-memory duplex, an upgraded HTTP connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> Io for T {}
