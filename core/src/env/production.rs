//! The real world behind an [`Env`](super::Env): tokio, the operating system, real sockets and files.

use std::sync::Arc;

pub(super) struct Production;

impl Production {
    #[expect(clippy::new_ret_no_self, reason = "being written")]
    pub(super) fn new() -> Arc<dyn super::Backend> {
        todo!("being written")
    }
}
