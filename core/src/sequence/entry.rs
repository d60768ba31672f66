//! Entries: what leads from one state to the next.
//!
//! An entry carries deltas and the root of what they make of the state before, so whoever applies it knows at once
//! whether it has the same state. A delta says under which condition it may be applied; one that may not makes the
//! whole entry impossible, and a proposer finds that out before it proposes.
//!
//! Deltas travel as (kind, archive): a new kind is a new number, and a release that does not know it says so
//! instead of reading it as something else.

use super::state::{
    ChangeId, Member, MemberStatus, PropertySet, RECENT_CHANGES_MAX, Root, State, VOTERS_MAX,
};
use crate::ring::{BadPlacement, Occupant, Placement};
use bytes::Bytes;
use rondel_proto::{
    Msg, Wire,
    id::{Epoch, Lineage, NodeId, StoreId},
    wire,
};

/// One step of the sequence.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Entry {
    /// Which sequence.
    pub lineage: Lineage,
    /// Which step.
    pub epoch: Epoch,
    /// The root of the state before.
    pub parent: Root,
    /// Names the change over all its retries.
    pub change: ChangeId,
    /// What changes, in order.
    pub deltas: Vec<DeltaRecord>,
    /// The root of the state after.
    pub root: Root,
}

/// A delta as it travels and rests.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct DeltaRecord {
    /// Which kind, numbered for ever.
    pub kind: u16,
    /// The archive of what that kind says.
    pub body: Vec<u8>,
}

/// Where a member is reached from now on.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct SetAddress {
    /// Which member.
    pub node: NodeId,
    /// Where it is asked, `host:port`.
    pub addr: String,
    /// Where bulk goes to, `host:port`.
    pub bulk_addr: String,
}

/// The store that a member has from now on: its old one is gone.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct SetStore {
    /// Which member.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
}

macro_rules! deltas {
    ($($(#[$doc:meta])* $name:ident($body:ty) = $kind:literal;)*) => {
        /// A change of one part of the state.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Delta { $($(#[$doc])* $name($body),)* }

        impl Delta {
            /// As it travels and rests.
            #[must_use]
            pub fn record(&self) -> DeltaRecord {
                match self { $(Self::$name(body) => DeltaRecord { kind: $kind, body: body.encode().to_vec() },)* }
            }

            /// Reads one that comes from outside.
            ///
            /// # Errors
            /// [`Refusal::UnknownDelta`], [`Refusal::BadDelta`].
            pub fn of(record: &DeltaRecord) -> Result<Self, Refusal> {
                match record.kind {
                    $($kind => read::<$body>(record).map(Self::$name),)*
                    kind => Err(Refusal::UnknownDelta { kind }),
                }
            }
        }
    };
}

deltas! {
    /// A node is admitted. No other member may have its id, name or certificate.
    AddMember(Member) = 1;
    /// A member moved to another address.
    SetMemberAddress(SetAddress) = 2;
    /// The cluster is formed: its founding members, all of them there, own this, and are full members.
    Form(Placement) = 3;
    /// Others vote from the next entry on: one is added or replaced.
    SetVoters(Vec<Occupant>) = 4;
    /// More may be written. It never goes back.
    RaiseFormat(u32) = 5;
    /// A property set is made or replaced.
    PutProperties(PropertySet) = 6;
    /// Another secret lets nodes in; none lets nobody in.
    SetJoinSecret(Option<[u8; 32]>) = 7;
    /// A member lost its store and has another one. Its votes and slots stay in the name of the old one.
    SetMemberStore(SetStore) = 8;
}

fn read<T: Wire>(record: &DeltaRecord) -> Result<T, Refusal> {
    let body = Bytes::copy_from_slice(&record.body);
    let msg = Msg::<T>::from_bytes(body).map_err(|error| Refusal::BadDelta { reason: error.to_string() })?;
    Ok(msg.to_owned())
}

/// Why an entry can't follow a state. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another sequence.
    #[error("the entry belongs to the lineage {found}, not to {expected}")]
    OtherLineage {
        /// Ours.
        expected: Lineage,
        /// Its.
        found: Lineage,
    },
    /// It is not the next one.
    #[error("entry {found} does not follow epoch {have}")]
    NotNext {
        /// Ours.
        have: Epoch,
        /// Its.
        found: Epoch,
    },
    /// It follows another state of this epoch: the sequence has forked.
    #[error("entry {epoch} follows another state than ours")]
    OtherParent {
        /// Its.
        epoch: Epoch,
    },
    /// It makes something else of our state than of the proposer's.
    #[error("entry {epoch} leads to another state here than where it was made")]
    OtherRoot {
        /// Its.
        epoch: Epoch,
    },
    /// It has been applied already.
    #[error("the change {0} has already taken place")]
    Repeated(ChangeId),
    /// A newer release made it.
    #[error("a delta of kind {kind}, which this release does not know")]
    UnknownDelta {
        /// Its number.
        kind: u16,
    },
    /// Its bytes are not what its kind says.
    #[error("a delta does not decode: {reason}")]
    BadDelta {
        /// What is wrong.
        reason: String,
    },
    /// A member has this already.
    #[error("a member with this {what} exists already: {member}")]
    MemberExists {
        /// What the two would share.
        what: &'static str,
        /// The name of the one that exists.
        member: String,
    },
    /// There is no such member.
    #[error("no member {0}")]
    NoSuchMember(NodeId),
    /// The cluster is formed only once.
    #[error("the cluster has been formed already")]
    Formed,
    /// Not all founders are there.
    #[error("the cluster waits for {founders} members and has {have}")]
    FoundersMissing {
        /// How many it waits for.
        founders: u16,
        /// How many there are.
        have: usize,
    },
    /// The placement is none, or not of this cluster.
    #[error("not a placement for this cluster: {reason}")]
    BadPlacement {
        /// What is wrong.
        reason: String,
    },
    /// Voters are members, 1 to 5, and change one at a time.
    #[error("not a possible set of voters: {reason}")]
    BadVoters {
        /// What is wrong.
        reason: &'static str,
    },
    /// The format never goes back.
    #[error("the format is {have} already")]
    FormatBelow {
        /// What it is.
        have: u32,
    },
}

impl From<BadPlacement> for Refusal {
    fn from(error: BadPlacement) -> Self {
        Self::BadPlacement { reason: error.to_string() }
    }
}

impl State {
    /// The entry that makes these changes, and the state after it.
    ///
    /// # Errors
    /// [`Refusal`] if a condition of a delta is not met, or if the change has already taken place.
    pub fn next(&self, change: ChangeId, deltas: &[Delta]) -> Result<(Entry, Self), Refusal> {
        let after = self.changed(self.root(), change, deltas)?;
        let entry = Entry {
            lineage: self.lineage,
            epoch: after.epoch,
            parent: after.parent,
            change,
            deltas: deltas.iter().map(Delta::record).collect(),
            root: after.root(),
        };
        Ok((entry, after))
    }

    /// The state after an entry.
    ///
    /// # Errors
    /// [`Refusal`]. `OtherParent` and `OtherRoot` mean that two nodes do not have the same sequence.
    pub fn apply(&self, entry: &Entry) -> Result<Self, Refusal> {
        if entry.lineage != self.lineage {
            return Err(Refusal::OtherLineage { expected: self.lineage, found: entry.lineage });
        }
        if entry.epoch.0 != self.epoch.0 + 1 {
            return Err(Refusal::NotNext { have: self.epoch, found: entry.epoch });
        }
        let parent = self.root();
        if entry.parent != parent {
            return Err(Refusal::OtherParent { epoch: entry.epoch });
        }
        let deltas = entry.deltas.iter().map(Delta::of).collect::<Result<Vec<_>, _>>()?;
        let after = self.changed(parent, entry.change, &deltas)?;
        match after.root() == entry.root {
            true => Ok(after),
            false => Err(Refusal::OtherRoot { epoch: entry.epoch }),
        }
    }

    fn changed(&self, parent: Root, change: ChangeId, deltas: &[Delta]) -> Result<Self, Refusal> {
        if self.has_change(change) {
            return Err(Refusal::Repeated(change));
        }
        let mut after = self.clone();
        deltas.iter().try_for_each(|delta| after.change(delta))?;
        (after.parent, after.epoch, after.change) = (parent, Epoch(self.epoch.0 + 1), change);
        after.recent_changes.push(change);
        let forgotten = after.recent_changes.len().saturating_sub(RECENT_CHANGES_MAX);
        after.recent_changes.drain(..forgotten);
        Ok(after)
    }

    fn change(&mut self, delta: &Delta) -> Result<(), Refusal> {
        match delta {
            Delta::AddMember(member) => self.add_member(member),
            Delta::SetMemberAddress(to) => {
                let member = self.member_mut(to.node)?;
                (member.addr, member.bulk_addr) = (to.addr.clone(), to.bulk_addr.clone());
                Ok(())
            }
            Delta::SetMemberStore(to) => self.set_store(to),
            Delta::Form(placement) => self.form(placement),
            Delta::SetVoters(voters) => self.set_voters(voters),
            Delta::RaiseFormat(format) if *format <= self.format => {
                Err(Refusal::FormatBelow { have: self.format })
            }
            Delta::RaiseFormat(format) => {
                self.format = *format;
                Ok(())
            }
            Delta::PutProperties(set) => {
                match self.catalog.binary_search_by(|known| known.name.cmp(&set.name)) {
                    Ok(at) => self.catalog[at] = set.clone(),
                    Err(at) => self.catalog.insert(at, set.clone()),
                }
                Ok(())
            }
            Delta::SetJoinSecret(secret) => {
                self.topology.join_secret = *secret;
                Ok(())
            }
        }
    }

    fn add_member(&mut self, member: &Member) -> Result<(), Refusal> {
        let members = &mut self.topology.members;
        if let Some((what, known)) =
            members.iter().find_map(|known| Some((known.shares_with(member)?, known)))
        {
            return Err(Refusal::MemberExists { what, member: known.name.clone() });
        }
        let at = members.partition_point(|known| known.node < member.node);
        members.insert(at, member.clone());
        Ok(())
    }

    fn set_store(&mut self, to: &SetStore) -> Result<(), Refusal> {
        if let Some(known) = self.topology.members.iter().find(|known| known.store == to.store) {
            return Err(Refusal::MemberExists { what: "store id", member: known.name.clone() });
        }
        self.member_mut(to.node)?.store = to.store;
        Ok(())
    }

    fn member_mut(&mut self, node: NodeId) -> Result<&mut Member, Refusal> {
        self.topology.members.iter_mut().find(|member| member.node == node).ok_or(Refusal::NoSuchMember(node))
    }

    fn form(&mut self, placement: &Placement) -> Result<(), Refusal> {
        let topology = &mut self.topology;
        if topology.placement.is_some() {
            return Err(Refusal::Formed);
        }
        let have = topology.members.len();
        if have != usize::from(topology.founders) {
            return Err(Refusal::FoundersMissing { founders: topology.founders, have });
        }
        placement.check()?;
        if placement.bits != topology.bits || placement.replicas() != usize::from(topology.replicas) {
            return Err(Refusal::BadPlacement { reason: "its ring has another size".to_owned() });
        }
        let members: Vec<Occupant> = topology.members.iter().map(Member::occupant).collect();
        let slots = placement.partitions.iter().flat_map(|partition| &partition.slots);
        if let Some(slot) = slots.into_iter().find(|slot| !slot.is_stable() || !members.contains(&slot.owner))
        {
            return Err(Refusal::BadPlacement { reason: format!("{} is no stable owner here", slot.owner) });
        }
        for member in &mut topology.members {
            member.status = MemberStatus::Valid;
        }
        topology.placement = Some(placement.clone());
        Ok(())
    }

    /// One voter is added, replaced or dropped: then any majority before and any after have a store in common.
    fn set_voters(&mut self, voters: &[Occupant]) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal::BadVoters { reason });
        if voters.is_empty() || voters.len() > VOTERS_MAX {
            return refuse("there are 1 to 5");
        }
        let twice =
            |(at, voter): (usize, &Occupant)| voters[..at].iter().any(|other| other.node == voter.node);
        if voters.iter().enumerate().any(twice) {
            return refuse("a node votes once");
        }
        let is_member =
            |voter: &&Occupant| self.topology.members.iter().any(|member| member.occupant() == **voter);
        if !voters.iter().all(|voter| is_member(&voter)) {
            return refuse("voters are members, with the stores that they were admitted with");
        }
        let added = voters.iter().filter(|voter| !self.voters.contains(voter)).count();
        let dropped = self.voters.iter().filter(|voter| !voters.contains(voter)).count();
        if added > 1 || dropped > 1 {
            return refuse("one is added or replaced at a time");
        }
        self.voters = voters.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{PartitionSlots, SlotEntry};
    use crate::sequence::state::tests::{genesis, member};
    use rondel_proto::id::Ver;

    fn add(number: u8) -> Delta {
        Delta::AddMember(member(number))
    }

    fn placement(owner: u8) -> Placement {
        let slots = vec![SlotEntry::stable(member(owner).occupant()); 3];
        Placement {
            bits: genesis(1).topology.bits,
            partitions: vec![PartitionSlots { ver: Ver(1), slots }; 8],
        }
    }

    fn after(state: &State, deltas: &[Delta]) -> Result<State, Refusal> {
        Ok(state.next(ChangeId(u128::from(state.epoch.0) + 100), deltas)?.1)
    }

    #[test]
    fn applying_an_entry_gives_the_state_that_its_proposer_had() {
        let before = genesis(2);
        let (entry, made) = before.next(ChangeId(5), &[add(2), Delta::RaiseFormat(2)]).unwrap();
        let copy = Msg::<Entry>::from_bytes(entry.encode()).unwrap().to_owned();
        assert_eq!(before.apply(&copy).unwrap(), made);
        assert_eq!((made.epoch, made.parent, made.change), (Epoch(2), before.root(), ChangeId(5)));
    }

    #[test]
    fn an_entry_of_another_chain_or_with_another_result_is_refused() {
        let before = genesis(2);
        let (entry, made) = before.next(ChangeId(5), &[add(2)]).unwrap();
        let other = after(&before, &[add(3)]).unwrap();
        assert_eq!(made.apply(&entry), Err(Refusal::NotNext { have: Epoch(2), found: Epoch(2) }));
        let (next, _) = made.next(ChangeId(6), &[]).unwrap();
        assert_eq!(other.apply(&next), Err(Refusal::OtherParent { epoch: Epoch(3) }));
        let mut forged = entry.clone();
        forged.root.0[0] ^= 1;
        assert_eq!(before.apply(&forged), Err(Refusal::OtherRoot { epoch: Epoch(2) }));
        let mut strange = entry.clone();
        strange.deltas[0].kind = 999;
        assert_eq!(before.apply(&strange), Err(Refusal::UnknownDelta { kind: 999 }));
        let mut broken = entry;
        broken.deltas[0].body.truncate(3);
        assert!(matches!(before.apply(&broken), Err(Refusal::BadDelta { .. })));
    }

    #[test]
    fn a_change_takes_place_once_while_it_is_remembered() {
        let mut state = genesis(1);
        assert_eq!(state.next(ChangeId(1), &[]).unwrap_err(), Refusal::Repeated(ChangeId(1)));
        for _ in 0..RECENT_CHANGES_MAX {
            state = after(&state, &[]).unwrap();
        }
        assert_eq!(state.recent_changes.len(), RECENT_CHANGES_MAX);
        assert!(!state.has_change(ChangeId(1)) && state.has_change(ChangeId(101)));
    }

    #[test]
    fn no_two_members_share_an_identity() {
        let state = genesis(3);
        let (one, two) = (member(1), member(2));
        let cases = [
            ("node id", Member { node: one.node, ..two.clone() }),
            ("store id", Member { store: one.store, ..two.clone() }),
            ("name", Member { name: one.name, ..two.clone() }),
            ("certificate", Member { fingerprint: one.fingerprint, ..two }),
        ];
        for (what, new) in cases {
            let refusal = after(&state, &[Delta::AddMember(new)]).unwrap_err();
            assert_eq!(refusal, Refusal::MemberExists { what, member: "n1".to_owned() });
        }
    }

    #[test]
    fn members_stand_in_the_order_of_their_ids_however_they_came() {
        let one = after(&genesis(3), &[add(3), add(2)]).unwrap();
        let two = after(&genesis(3), &[add(2), add(3)]).unwrap();
        assert_eq!(one.root(), two.root());
    }

    #[test]
    fn a_cluster_is_formed_once_by_all_of_its_founders() {
        let state = genesis(2);
        let early = after(&state, &[Delta::Form(placement(1))]).unwrap_err();
        assert_eq!(early, Refusal::FoundersMissing { founders: 2, have: 1 });
        let full = after(&state, &[add(2)]).unwrap();
        let stranger = after(&full, &[Delta::Form(placement(9))]).unwrap_err();
        assert!(matches!(stranger, Refusal::BadPlacement { .. }));
        let formed = after(&full, &[Delta::Form(placement(2))]).unwrap();
        assert!(
            formed.is_formed() && formed.topology.members.iter().all(|m| m.status == MemberStatus::Valid)
        );
        assert_eq!(after(&formed, &[Delta::Form(placement(2))]).unwrap_err(), Refusal::Formed);
    }

    #[test]
    fn voters_change_one_at_a_time_and_are_members() {
        let state = after(&genesis(3), &[add(2), add(3)]).unwrap();
        let [a, b, c] = [1, 2, 3].map(|number| member(number).occupant());
        let set = |state: &State, voters: &[Occupant]| after(state, &[Delta::SetVoters(voters.to_vec())]);
        assert!(set(&state, &[]).is_err());
        assert!(set(&state, &[a, b, c]).is_err(), "two at once");
        assert!(set(&state, &[a, a]).is_err());
        assert!(set(&state, &[a, member(9).occupant()]).is_err());
        let wiped = Occupant { store: StoreId(5), ..b };
        assert!(set(&state, &[a, wiped]).is_err());
        let two = set(&state, &[a, b]).unwrap();
        let three = set(&two, &[a, b, c]).unwrap();
        assert_eq!(set(&three, &[a, c]).unwrap().voters, [a, c]);
        assert_eq!(set(&state, &[c]).unwrap().voters, [c], "replaced");
    }

    #[test]
    fn a_member_with_another_store_keeps_its_name_and_not_its_vote() {
        let store = StoreId(77);
        let state =
            after(&genesis(1), &[Delta::SetMemberStore(SetStore { node: NodeId(1), store })]).unwrap();
        assert_eq!(state.member(NodeId(1)).unwrap().store, store);
        assert!(!state.is_voter(Occupant { node: NodeId(1), store }));
        let again = after(&state, &[Delta::SetMemberStore(SetStore { node: NodeId(1), store })]).unwrap_err();
        assert!(matches!(again, Refusal::MemberExists { what: "store id", .. }));
    }

    #[test]
    fn properties_are_replaced_by_name_and_the_format_never_goes_back() {
        let set = |name: &str, n_val| {
            let routing = crate::sequence::KeyRouting::Whole;
            Delta::PutProperties(PropertySet {
                name: name.to_owned(),
                n_val,
                routing,
                routing_bytes: 0,
                properties: vec![n_val],
            })
        };
        let state = after(&genesis(1), &[set("b", 3), set("a", 2), set("b", 1)]).unwrap();
        assert_eq!(state.catalog.len(), 2);
        assert_eq!(state.properties("b").unwrap().n_val, 1);
        assert!(state.properties("c").is_none());
        assert_eq!(after(&state, &[Delta::RaiseFormat(1)]), Err(Refusal::FormatBelow { have: 1 }));
    }
}
