//! One slot of every partition, given out at the least cost such that everyone gets what its window says.
//!
//! A minimum-cost flow by successive shortest paths. Everybody first gets what is cheapest for each partition; then,
//! while a member has too much (or another too little), a chain of partitions changes hands: from the first to a
//! second, from that to a third …, along the cheapest chain. Such a chain never makes the rest worse than it must
//! be, so the result is the cheapest with those counts.
//!
//! Costs are in tiers that never outweigh each other: sharing a node, sharing a zone, leaving a window, moving.

use std::cmp::Reverse;

/// What one choice costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost(i64);

impl Cost {
    const ZONE: i64 = 1 << 30;
    /// Chains from here on make some partition share a zone or a node, whatever they save in moves.
    const SHARING: i64 = Self::ZONE / 2;
    /// Too dear for any chain to lead there on its own: there are at most 2^15 partitions.
    const NODE: i64 = 1 << 46;

    /// The occupant stays.
    pub(super) const KEEPS: Self = Self(0);

    /// The slot changes hands: dearer if the new occupant or its zone is wanted for another slot of the partition,
    /// or if another slot of the old occupant would be the better one to change.
    pub(super) fn moves(disturbs: bool, wrong_one: bool) -> Self {
        Self(2 + 2 * i64::from(disturbs) + i64::from(wrong_one))
    }

    /// The same where the partition already uses that zone as often as it need be.
    pub(super) fn sharing_zone(self) -> Self {
        Self(self.0 + Self::ZONE)
    }

    /// The same where the partition already uses that node as often as it need be.
    pub(super) fn sharing_node(self) -> Self {
        Self(self.0 + Self::NODE)
    }
}

/// How many partitions of the layer a member should get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) at_least: u64,
    pub(super) at_most: u64,
}

/// A way for one partition to change hands: what it adds to the cost, an order among equals, and which partition.
type Step = (i64, u64, usize);

pub(super) struct Layer<F> {
    slot: usize,
    cost: F,
    windows: Vec<Window>,
    /// Per partition, who has it.
    holder: Vec<usize>,
    /// Per member, its partitions.
    held: Vec<Vec<usize>>,
    /// Per pair of members, the cheapest partition of the first to give to the second.
    steps: Vec<Vec<Option<Step>>>,
}

impl<F: Fn(usize, usize) -> Cost> Layer<F> {
    /// Gives every partition to whom it is cheapest; among equals to who is farthest below its window.
    pub(super) fn new(slot: usize, partitions: usize, windows: Vec<Window>, cost: F) -> Self {
        let members = windows.len();
        let mut held: Vec<Vec<usize>> = vec![Vec::new(); members];
        let mut holder = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            let burden = |member: &usize| {
                let (has, window) = (held[*member].len() as u64, windows[*member]);
                let free = window.at_most.saturating_sub(has);
                (cost(partition, *member).0, Reverse(free), scatter(slot, partition, *member))
            };
            let cheapest = (0..members).min_by_key(burden).expect("there is a member");
            held[cheapest].push(partition);
            holder.push(cheapest);
        }
        let mut layer = Self { slot, cost, windows, holder, held, steps: vec![vec![None; members]; members] };
        for member in 0..members {
            layer.find_steps(member);
        }
        layer
    }

    /// Moves partitions along the cheapest chains until every window is met as far as possible.
    pub(super) fn settle(&mut self) {
        while let Some(chain) = self.cheapest_chain(Self::excess, Self::room) {
            self.apply(&chain);
        }
        while let Some(chain) = self.cheapest_chain(Self::spare, Self::lack) {
            self.apply(&chain);
        }
    }

    pub(super) fn into_assignment(self) -> Vec<usize> {
        self.holder
    }

    fn has(&self, member: usize) -> u64 {
        self.held[member].len() as u64
    }

    fn excess(&self, member: usize) -> bool {
        self.has(member) > self.windows[member].at_most
    }

    fn room(&self, member: usize) -> bool {
        self.has(member) < self.windows[member].at_most
    }

    fn spare(&self, member: usize) -> bool {
        self.has(member) > self.windows[member].at_least
    }

    fn lack(&self, member: usize) -> bool {
        self.has(member) < self.windows[member].at_least
    }

    /// The cheapest chain of members from one that is a source to one that is a sink, by Bellman and Ford: a step
    /// may lower the cost. A chain that would make a partition share a node or a zone more often is no chain.
    fn cheapest_chain(
        &self,
        source: impl Fn(&Self, usize) -> bool,
        sink: impl Fn(&Self, usize) -> bool,
    ) -> Option<Vec<usize>> {
        let members = self.windows.len();
        let mut reached: Vec<Option<(i64, usize)>> =
            (0..members).map(|member| source(self, member).then_some((0, member))).collect();
        for _ in 0..members {
            let mut changed = false;
            for from in 0..members {
                let Some((so_far, _)) = reached[from] else { continue };
                for (to, step) in self.steps[from].iter().enumerate() {
                    let Some((step, ..)) = *step else { continue };
                    let total = so_far + step;
                    if reached[to].is_none_or(|(known, _)| total < known) {
                        reached[to] = Some((total, from));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        let ends = (0..members).filter(|&member| sink(self, member));
        let costs = ends.filter_map(|member| Some((reached[member]?.0, member)));
        let (cost, end) = costs.min()?;
        if cost >= Cost::SHARING {
            return None;
        }
        let mut chain = vec![end];
        let mut at = end;
        while let Some((_, from)) = reached[at].filter(|&(_, from)| from != at) {
            chain.push(from);
            at = from;
        }
        chain.reverse();
        Some(chain)
    }

    fn apply(&mut self, chain: &[usize]) {
        let steps: Vec<(usize, usize)> = chain
            .windows(2)
            .map(|pair| (self.steps[pair[0]][pair[1]].expect("a chain is made of steps").2, pair[1]))
            .collect();
        for (partition, to) in steps {
            let from = self.holder[partition];
            self.held[from].retain(|&other| other != partition);
            self.held[to].push(partition);
            self.holder[partition] = to;
            self.forget_steps(from, partition);
            self.offer_steps(to, partition);
        }
    }

    fn step(&self, partition: usize, to: usize) -> Step {
        let from = self.holder[partition];
        let added = (self.cost)(partition, to).0 - (self.cost)(partition, from).0;
        (added, scatter(self.slot, partition, to), partition)
    }

    fn find_steps(&mut self, from: usize) {
        for to in (0..self.windows.len()).filter(|&to| to != from) {
            self.steps[from][to] = self.held[from].iter().map(|&partition| self.step(partition, to)).min();
        }
    }

    /// `from` no longer has the partition: steps that used it are looked for anew.
    fn forget_steps(&mut self, from: usize, partition: usize) {
        for to in 0..self.windows.len() {
            if self.steps[from][to].is_some_and(|(.., used)| used == partition) {
                self.steps[from][to] = self.held[from].iter().map(|&other| self.step(other, to)).min();
            }
        }
    }

    /// `from` has the partition now: it may be a cheaper step than those known.
    fn offer_steps(&mut self, from: usize, partition: usize) {
        for to in (0..self.windows.len()).filter(|&to| to != from) {
            let step = self.step(partition, to);
            if self.steps[from][to].is_none_or(|known| step < known) {
                self.steps[from][to] = Some(step);
            }
        }
    }
}

/// An order among equals that differs from slot to slot (the finaliser of SplitMix64): a node's partitions get
/// different co-owners, so its load goes to many when it fails, and there is a choice when the next member comes.
fn scatter(slot: usize, partition: usize, member: usize) -> u64 {
    let mut mixed = (slot as u64) << 56 | (partition as u64) << 32 | member as u64;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}
