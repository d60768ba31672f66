use super::*;
use crate::{
    mutant::Mutants,
    proto::Wire,
    reply::FailureCode,
    store::Peek,
    table::{Entry, Keyed},
    testing::{Shape, Sim, TestCluster},
    vnode::{Registry, Storage, host::RowRequest, lane::hint_key},
};
use rondel_proto::wire;

/// The highest number that anybody has seen.
#[wire(crate = rondel_proto)]
#[derive(Default, PartialEq)]
struct Highest(u32);

impl Entry for Highest {
    const NAME: &'static str = "highest";

    fn merge(&mut self, other: Self) {
        self.0 = self.0.max(other.0);
    }

    fn messages(_: &mut Registry<Keyed<Self>>) {}
}

const KEY: &[u8] = b"key";
const SLOT: u8 = 1;

/// A node that stands in for a slot of one key.
struct StandIn {
    walk: Walk,
    item: RowKey,
    hint: RowKey,
}

impl StandIn {
    fn of(shared: &Arc<Shared>) -> Self {
        let topology = shared.topology().unwrap();
        let position = (shared.host.services[0].position)(KEY);
        let item = shared.host.row(0, position, Bytes::from_static(KEY));
        let hint = hint_key(shared.host.services[0].code, &item, SLOT);
        Self { walk: Walk { shared: shared.clone(), topology, service: 0 }, item, hint }
    }

    /// Takes an item for the slot, as a write does.
    async fn take(&self, number: u32) {
        let Walk { shared, topology, .. } = &self.walk;
        let head = Head {
            service: self.walk.code(),
            message: core_message::ABSORB,
            flags: 0,
            slots: 0,
            stand_in: 1 << SLOT,
            ver: topology.ver(topology.partition(self.item.position)),
            position: self.item.position,
            request_id: RequestId::default(),
            deadline_us: 0,
        };
        let body = absorb_body(3, &Highest(number).encode(), None);
        let deadline = shared.env.now() + DELIVERY_DEADLINE;
        let (reply, answer) = self.walk.answer();
        let request = RowRequest { head, key: Bytes::from_static(KEY), body, deadline, reply };
        shared.host.request(topology, 0, request);
        assert_eq!(answer.await.unwrap().map(drop).map_err(|failure| failure.code), Ok::<_, FailureCode>(()));
    }

    /// The hint as a walk reads it.
    fn hint(&self) -> Hint {
        let store = self.walk.shared.store(self.walk.shared.host.services[0].storage);
        let Peek::Known(Some(value)) = store.peek(&self.hint) else { panic!("there is no hint") };
        Hint { row: self.hint.clone(), value, slot: SLOT, item: self.item.clone() }
    }

    async fn remove(&self, hint: Hint) -> bool {
        self.walk.remove_hint(self.walk.topology.partition(self.item.position), hint).await
    }
}

/// Takes two items while the first is being delivered: says whether the hint is gone with the first, and with the second.
fn removed_after_each_delivery(second: u32, mutants: Mutants) -> [bool; 2] {
    let sim = Sim::new(1);
    let application = |node: crate::node::Builder| node.table::<Highest>(Storage::Durable);
    let cluster =
        TestCluster::with_config(&sim, Shape::of(1), application, move |_, config| config.mutants = mutants);
    sim.run_until(async {
        cluster.form().await;
        let stand_in = StandIn::of(cluster.node(0).await.shared());
        stand_in.take(7).await;
        let first = stand_in.hint();
        stand_in.take(second).await;
        if stand_in.remove(first).await {
            return [true, false];
        }
        [false, stand_in.remove(stand_in.hint()).await]
    })
}

#[test]
fn a_hint_that_was_written_anew_outlives_the_delivery_of_the_one_before() {
    assert_eq!(removed_after_each_delivery(8, Mutants::default()), [false, true]);
    let broken = Mutants::only(Mutant::RemoveHintUncompared);
    assert_eq!(removed_after_each_delivery(8, broken), [true, false], "the switch works");
}

/// The same item again may be there because of another write, of which the delivery knew nothing.
#[test]
fn a_hint_is_another_even_if_its_item_is_the_same() {
    assert_eq!(removed_after_each_delivery(7, Mutants::default()), [false, true]);
}
