//! The real world behind an [`Env`](super::Env): tokio, the operating system, real sockets and files.
