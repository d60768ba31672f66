//! The real world behind an [`Env`](super::Env): tokio, the operating system, real sockets and files.
//!
//! Everything runs on the tokio runtime that was current when the environment was made, from whichever thread it is
//! called: timers and sockets are created inside that runtime's context. A task with a thread of its own is driven
//! by that thread and still reaches the runtime's timers and sockets.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place where the real clock, threads and randomness come in"
)]

mod disk;

use super::{Backend, BoxFuture, Disk, TaskHandle};
use futures_util::future::{abortable, ready};
use quinn::{AsyncUdpSocket, Runtime as _};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::runtime::Handle;

/// Kernel buffers of a datagram socket. A burst of a few hundred peers must not overflow it: QUIC takes a dropped
/// datagram for congestion.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The operating system, seen from one tokio runtime.
pub(super) struct Production {
    runtime: Handle,
    disk: Arc<dyn Disk>,
}

impl Production {
    /// The world of the current tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn new() -> Self {
        Self { runtime: Handle::current(), disk: Arc::new(disk::FileSystem) }
    }
}

impl Backend for Production {
    fn now(&self) -> Instant {
        // tokio's clock and not std's, so that timers and readings agree when a test pauses tokio's time.
        tokio::time::Instant::now().into_std()
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture {
        let _context = self.runtime.enter();
        Box::pin(tokio::time::sleep_until(at.into()))
    }

    fn entropy(&self, out: &mut [u8]) {
        getrandom::fill(out)
            .expect("an operating system without randomness can't make keys: there is no way on");
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture) -> TaskHandle {
        let task = self.runtime.spawn(task).abort_handle();
        TaskHandle::new(move || task.abort())
    }

    fn spawn_thread(&self, name: String, task: BoxFuture) -> TaskHandle {
        let (task, handle) = abortable(task);
        let runtime = self.runtime.clone();
        thread::Builder::new()
            .name(name)
            .spawn(move || {
                // `Err` is an abort: the task has been dropped, which is all that was asked for.
                let _ = runtime.block_on(task);
            })
            .expect("the operating system refuses a thread: raise the limit on threads of this process");
        TaskHandle::new(move || handle.abort())
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture {
        let running = self.runtime.spawn_blocking(work);
        Box::pin(async move {
            // A panic in the work shows as the missing value (`WorkLost`).
            let _ = running.await;
        })
    }

    fn block_thread(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture {
        // A panic in the work shows as the missing value (`WorkLost`), and the task goes on.
        let _ = catch_unwind(AssertUnwindSafe(work));
        Box::pin(ready(()))
    }

    fn quic_runtime(&self) -> Arc<dyn quinn::Runtime> {
        Arc::new(quinn::TokioRuntime)
    }

    fn quic_endpoint_config(&self) -> quinn::EndpointConfig {
        quinn::EndpointConfig::default()
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // `[::]` should serve both families; a kernel that can't still serves the one that was asked for.
            let _ = socket.set_only_v6(false);
        }
        // The kernel grants what its limits allow; less costs throughput, never correctness.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let _context = self.runtime.enter();
        quinn::TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }
}

#[cfg(test)]
mod tests {
    use crate::env::Env;
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    /// Far longer than a task takes to end.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Sends when dropped: the way to see that a task is gone.
    struct Gone(mpsc::Sender<()>);

    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }

    #[tokio::test]
    async fn block_gives_the_value_and_reports_a_panic_as_lost() {
        let env = Env::production();
        assert_eq!(env.block(|| 6 * 7).await.unwrap(), 42);
        env.block(|| panic!("work that fails")).await.unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_task_with_a_thread_does_its_blocking_work_there() {
        let env = Env::production();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let inner = env.clone();
        env.spawn_thread("writer", async move {
            let name = || std::thread::current().name().map(str::to_owned);
            let worked = inner.block_thread(name).await.unwrap();
            let lost = inner.block_thread(|| panic!("work that fails")).await.is_err();
            sender.send((worked, lost)).unwrap();
        });
        assert_eq!(receiver.await.unwrap(), (Some("writer".to_owned()), true));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_thread_has_its_name_and_reaches_timers_and_ends_by_abort() {
        let env = Env::production();
        let (gone, dropped) = mpsc::channel();
        let (named, mut name) = tokio::sync::mpsc::unbounded_channel();
        let inner = env.clone();
        let handle = env.spawn_thread("lane-7", async move {
            let _gone = Gone(gone);
            inner.sleep(Duration::from_nanos(1)).await;
            named.send(std::thread::current().name().map(str::to_owned)).unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(name.recv().await.unwrap().as_deref(), Some("lane-7"));
        handle.abort();
        tokio::task::block_in_place(|| dropped.recv_timeout(PATIENCE)).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_task_outlives_its_handle_and_ends_by_abort() {
        let env = Env::production();
        let (done, finished) = tokio::sync::oneshot::channel();
        drop(env.spawn("test", async move { done.send(()).unwrap() }));
        finished.await.unwrap();

        let (gone, dropped) = mpsc::channel();
        let gone = Gone(gone);
        env.spawn("test", async move {
            let _gone = gone;
            std::future::pending::<()>().await;
        })
        .abort();
        tokio::task::block_in_place(|| dropped.recv_timeout(PATIENCE)).unwrap();
    }

    #[tokio::test]
    async fn a_taken_address_is_refused_and_port_zero_takes_any() {
        let env = Env::production();
        let any = "127.0.0.1:0".parse().unwrap();
        let (one, two) = (env.bind(any).unwrap(), env.bind(any).unwrap());
        assert_ne!(one.local_addr().unwrap(), two.local_addr().unwrap());
        assert_eq!(env.bind(one.local_addr().unwrap()).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn entropy_differs_from_call_to_call() {
        let env = Env::production();
        assert_ne!(env.random_u128(), env.random_u128());
    }

    #[tokio::test]
    async fn files_keep_what_is_written_and_names_follow_renames() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Env::production().disk();
        let root = directory.path().join("a/b");
        disk.create_dir_all(&root).unwrap();
        let (old, new) = (root.join("old"), root.join("new"));
        assert_eq!(disk.open(&old, false).unwrap_err().kind(), std::io::ErrorKind::NotFound);

        let file = disk.open(&old, true).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(3, b"abc").unwrap();
        file.sync().unwrap();
        disk.rename(&old, &new).unwrap();
        disk.sync_dir(&root).unwrap();
        disk.create_dir_all(&root.join("inner")).unwrap();
        assert_eq!(disk.list(&root).unwrap(), std::slice::from_ref(&new));

        let again = disk.open(&new, false).unwrap();
        let mut bytes = [9; 6];
        again.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0\0abc");
        assert_eq!(again.read_at(1, &mut bytes).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        again.set_len(4).unwrap();
        assert_eq!(file.len().unwrap(), 4);
        assert!(disk.free_bytes(&root).unwrap() > 0);
        disk.remove(&new).unwrap();
        assert_eq!(disk.remove(&new).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_directory_is_locked_until_the_guard_goes() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Env::production().disk();
        let guard = disk.lock(directory.path()).unwrap();
        let second = Arc::clone(&disk).lock(directory.path()).err().unwrap();
        assert_eq!(second.kind(), std::io::ErrorKind::WouldBlock);
        drop(guard);
        drop(disk.lock(directory.path()).unwrap());
    }
}
