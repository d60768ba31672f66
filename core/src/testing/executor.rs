//! Runs every task of every node on one thread, in an order that the seed decides.
//!
//! Of the tasks that are ready one is picked at random; when none is, the clock jumps. No lock of ours is held while
//! a task is polled or dropped, and no waker is woken or dropped under one: both may call back into the world.

use super::{
    World,
    clock::{Due, Nanos},
    lock,
    process::Process,
    trace::Event,
};
use crate::env::{BoxFuture, Rng, TaskHandle};
use std::{
    borrow::Cow,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// More polls than this at one instant of virtual time are taken for a loop that never waits.
const POLLS_PER_INSTANT_MAX: u64 = 2_000_000;

/// The index that stands for the future that a run is about.
const MAIN: u32 = u32::MAX;

/// A task, for ever: a slot that is used again gets another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TaskId {
    index: u32,
    generation: u32,
}

/// All tasks of a simulation.
pub(super) struct Tasks {
    slots: Mutex<Slots>,
    ready: Arc<Ready>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<(u32, Option<Task>)>,
    free: Vec<u32>,
    runs: u32,
}

struct Task {
    name: Cow<'static, str>,
    /// Absent while it is polled.
    future: Option<BoxFuture>,
    waker: Arc<TaskWaker>,
    /// None: the test's own, which no fault touches.
    process: Option<Arc<Process>>,
    aborted: bool,
}

/// Tasks that want to be polled, in the order of their numbers, and the stream that picks among them.
///
/// Not in the order in which they were woken: one step may wake several, and some primitives (`tokio::sync::watch`)
/// do that in an order of their own, which differs from run to run.
struct Ready(Mutex<(Vec<TaskId>, Rng)>);

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.id);
        }
    }
}

impl Ready {
    fn push(&self, id: TaskId) {
        let tasks = &mut lock(&self.0).0;
        let at = tasks.partition_point(|other| *other < id);
        tasks.insert(at, id);
    }

    fn pick(&self) -> Option<TaskId> {
        let (tasks, rng) = &mut *lock(&self.0);
        match tasks.len() {
            0 => None,
            1 => tasks.pop(),
            len => Some(tasks.remove(rng.index(len))),
        }
    }
}

impl Slots {
    fn get(&mut self, id: TaskId) -> Option<&mut Task> {
        let (generation, task) = self.slots.get_mut(id.index as usize)?;
        if *generation == id.generation { task.as_mut() } else { None }
    }

    fn reserve(&mut self) -> TaskId {
        if let Some(index) = self.free.pop() {
            return TaskId { index, generation: self.slots[index as usize].0 };
        }
        let index = u32::try_from(self.slots.len()).expect("fewer tasks at once than four billion");
        self.slots.push((0, None));
        TaskId { index, generation: 0 }
    }

    fn remove(&mut self, id: TaskId) -> Option<Task> {
        let (generation, task) = self.slots.get_mut(id.index as usize)?;
        if *generation != id.generation {
            return None;
        }
        let task = task.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.index);
        Some(task)
    }

    /// The tasks that a condition holds for, removed, in the order of their slots.
    fn remove_all(&mut self, condition: impl Fn(&Task) -> bool) -> Vec<Task> {
        let chosen: Vec<_> = self
            .slots
            .iter()
            .filter_map(|(_, task)| task.as_ref())
            .filter(|task| condition(task))
            .map(|task| task.waker.id)
            .collect();
        chosen.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

impl Tasks {
    pub(super) fn new(rng: Rng) -> Self {
        Self { slots: Mutex::default(), ready: Arc::new(Ready(Mutex::new((Vec::new(), rng)))) }
    }

    fn insert(&self, name: Cow<'static, str>, process: Option<Arc<Process>>, future: BoxFuture) -> TaskId {
        let aborted = process.as_ref().is_some_and(|process| !process.is_alive());
        let mut slots = lock(&self.slots);
        let id = slots.reserve();
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), ready: self.ready.clone() });
        slots.slots[id.index as usize].1 = Some(Task { name, future: Some(future), waker, process, aborted });
        drop(slots);
        self.ready.push(id);
        id
    }

    /// Makes a task end the next time it is picked: whoever aborts may hold locks that its destructors need.
    fn abort(&self, id: TaskId) {
        let Some(waker) = lock(&self.slots).get(id).map(|task| {
            task.aborted = true;
            task.waker.clone()
        }) else {
            return;
        };
        waker.wake();
    }

    /// Wakes tasks that were set aside while their node was paused.
    pub(super) fn unpark(&self, parked: Vec<TaskId>) {
        parked.into_iter().for_each(|id| self.ready.push(id));
    }

    /// Drops all tasks of a process, oldest slot first, and says how many there were. A task that is just being
    /// polled is dropped when that poll returns.
    pub(super) fn kill(&self, process: &Process) -> usize {
        let killed = lock(&self.slots)
            .remove_all(|task| task.process.as_deref().is_some_and(|owner| owner.id == process.id));
        let count = killed.len();
        killed.into_iter().for_each(drop);
        count
    }

    /// Takes out every task there is.
    pub(super) fn clear(&self) -> Vec<impl Sized> {
        lock(&self.slots).remove_all(|_| true)
    }

    /// The names of the tasks of a node, in the order of their slots.
    pub(super) fn names(&self, node: u32) -> Vec<String> {
        let slots = lock(&self.slots);
        let of_node = |task: &&Task| task.process.as_ref().is_some_and(|owner| owner.machine.node == node);
        let tasks = slots.slots.iter().filter_map(|(_, task)| task.as_ref());
        tasks.filter(of_node).map(|task| task.name.clone().into_owned()).collect()
    }
}

/// What became of a task that was picked.
enum Picked {
    Poll(BoxFuture, Arc<TaskWaker>, Option<Arc<Process>>),
    Drop(Task),
    Nothing,
}

impl World {
    /// Starts a task. That of a dead process never runs: it is dropped in its turn, and not here, since whoever
    /// starts it may hold locks that its destructors need.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: impl Into<Cow<'static, str>>,
        process: Option<&Arc<Process>>,
        future: BoxFuture,
    ) -> TaskHandle {
        let name = name.into();
        let node = process.map(|process| process.machine.node);
        let id = self.tasks.insert(name.clone(), process.cloned(), future);
        self.record(&Event::Spawn { task: id, node, name: &name });
        let world = Arc::downgrade(self);
        TaskHandle::new(move || {
            if let Some(world) = world.upgrade() {
                world.tasks.abort(id);
            }
        })
    }

    /// Runs everything until `main` is ready.
    ///
    /// # Panics
    /// If nothing is left that could ever make it ready, if `until` comes first, or if tasks are polled for ever
    /// without a wait.
    pub(super) fn run<F: Future>(&self, mut main: Pin<&mut F>, until: Nanos) -> F::Output {
        let id = {
            let mut slots = lock(&self.tasks.slots);
            slots.runs += 1;
            TaskId { index: MAIN, generation: slots.runs }
        };
        let queue = self.tasks.ready.clone();
        let main_waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: queue });
        let waker = Waker::from(main_waker.clone());
        waker.wake_by_ref();
        let mut due = Vec::new();
        let mut polls = 0;
        loop {
            while let Some(picked) = self.tasks.ready.pick() {
                polls += 1;
                assert!(polls < POLLS_PER_INSTANT_MAX, "{}", self.livelock(picked));
                if picked == id {
                    main_waker.queued.store(false, Ordering::Relaxed);
                    self.record(&Event::Poll { task: id });
                    if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return value;
                    }
                } else {
                    self.poll(picked);
                }
            }
            polls = 0;
            self.jump(until, &mut due);
        }
    }

    /// Polls a task once and deals with what it came to.
    fn poll(&self, id: TaskId) {
        let (mut future, waker, process) = match self.take(id) {
            Picked::Poll(future, waker, process) => (future, waker, process),
            Picked::Drop(task) => return drop(task),
            Picked::Nothing => return,
        };
        self.record(&Event::Poll { task: id });
        waker.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(waker);
        let poll = || future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let ended = match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(ended) => ended,
            // A machine without power runs nothing: what its software makes of the failing disk is not real.
            Err(_) if process.as_ref().is_some_and(|process| process.machine.disk.is_cut()) => true,
            Err(panic) => resume_unwind(panic),
        };
        let mut slots = lock(&self.tasks.slots);
        let over = if ended {
            slots.remove(id);
            Some(future)
        } else if let Some(task) = slots.get(id) {
            task.future = Some(future);
            None
        } else {
            Some(future)
        };
        drop(slots);
        drop(over);
        if let Some(process) = process
            && process.machine.disk.is_cut()
        {
            self.finish_power_cut(&process.machine);
        }
    }

    fn take(&self, id: TaskId) -> Picked {
        let mut slots = lock(&self.tasks.slots);
        let Some(task) = slots.get(id) else { return Picked::Nothing };
        if task.process.as_ref().is_some_and(|process| process.machine.park(id)) {
            return Picked::Nothing;
        }
        if task.aborted {
            return slots.remove(id).map_or(Picked::Nothing, Picked::Drop);
        }
        let (waker, process) = (task.waker.clone(), task.process.clone());
        task.future.take().map_or(Picked::Nothing, |future| Picked::Poll(future, waker, process))
    }

    /// Goes to the next time at which something is due, and lets it happen.
    fn jump(&self, until: Nanos, due: &mut Vec<Due>) {
        let Some(at) = self.clock.next() else {
            panic!("simulation with seed {} stands still: no task is ready and nothing is due", self.seed);
        };
        assert!(
            at <= until,
            "simulation with seed {} has run for the longest time that a run may take",
            self.seed
        );
        self.clock.advance(at, due);
        for due in due.drain(..) {
            match due {
                Due::Wake(waker) => waker.wake(),
                Due::Deliver(packet) => self.deliver(packet),
            }
        }
    }

    fn livelock(&self, last: TaskId) -> String {
        let name = lock(&self.tasks.slots).get(last).map(|task| task.name.clone());
        format!(
            "simulation with seed {} goes round without time passing: {POLLS_PER_INSTANT_MAX} polls at {:?}, the last of \
             task {:?}",
            self.seed,
            std::time::Duration::from_nanos(self.clock.nanos()),
            name.as_deref().unwrap_or("the test itself"),
        )
    }
}
