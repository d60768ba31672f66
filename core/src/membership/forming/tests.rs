use super::*;
use crate::{
    durable::test_disk::{TestDisk, test_env},
    membership::token::{Door, JoinSecret},
    sequence::{Effect, Replica, Report},
};
use rondel_proto::id::{NodeId, StoreId};

struct Cluster {
    replica: Replica,
    token: JoinToken,
    next_change: u128,
}

fn candidate(number: u8) -> Candidate {
    Candidate {
        node: NodeId(u128::from(number)),
        store: StoreId(u128::from(number) + 100),
        name: format!("n{number}"),
        addr: format!("10.0.0.{number}:7400"),
        bulk_addr: format!("10.0.0.{number}:7401"),
        capacity: 10,
        zone: format!("z{}", number % 2),
        format_max: FORMAT,
    }
}

fn founding(founders: u16, secret: &JoinSecret) -> Founding {
    let join_secret = secret.hash();
    Founding { name: "test".to_owned(), founders, bits: Bits::of_count(8).unwrap(), replicas: 3, join_secret }
}

impl Cluster {
    fn found(founders: u16) -> Self {
        let secret = JoinSecret::draw(&test_env(&TestDisk::new(), 5));
        let founding = founding(founders, &secret);
        let state = super::found(Lineage(3), ChangeId(1), founding, &candidate(1), [1; 32]).unwrap();
        let door = Door { addr: candidate(1).addr, fingerprint: [1; 32] };
        let token = JoinToken::new(Lineage(3), secret, vec![door]).unwrap();
        let replica = Replica::new(Record::new(state.voters[0], state), 1);
        let mut cluster = Self { replica, token, next_change: 1 };
        cluster.form_if_due();
        cluster
    }

    fn decide(&mut self, proposal: Proposal) {
        let change = proposal.change;
        let effects = self.replica.propose(proposal).unwrap();
        let done = |effect: &Effect| matches!(effect, Effect::Report(Report::Decided { change: it, .. }) if *it == change);
        assert!(effects.iter().any(done), "{effects:?}");
    }

    fn form_if_due(&mut self) {
        if let Some(proposal) = next_step(self.state()).unwrap() {
            self.decide(proposal);
        }
    }

    fn state(&self) -> &State {
        self.replica.state()
    }

    fn ask(&self, number: u8) -> Result<Admission, JoinRefusal> {
        admit(self.state(), &JoinRequest::new(&self.token, candidate(number)), [number; 32])
    }

    fn join(&mut self, number: u8) -> Record {
        if let Admission::Decide(deltas) = self.ask(number).unwrap() {
            self.next_change += 1;
            self.decide(Proposal { change: ChangeId(self.next_change), deltas });
        }
        self.form_if_due();
        install(self.state().clone(), &self.token, occupant(number), [number; 32]).unwrap()
    }
}

fn occupant(number: u8) -> Occupant {
    Occupant { node: candidate(number).node, store: candidate(number).store }
}

#[test]
fn a_cluster_of_one_is_formed_at_once() {
    let cluster = Cluster::found(1);
    assert!(cluster.state().is_formed());
    assert_eq!(cluster.state().topology.members[0].status, MemberStatus::Valid);
}

#[test]
fn founders_come_one_by_one_and_the_last_one_forms_the_cluster() {
    let mut cluster = Cluster::found(3);
    assert!(!cluster.state().is_formed());
    cluster.join(2);
    assert!(!cluster.state().is_formed());
    let record = cluster.join(3);
    let state = cluster.state();
    assert!(state.is_formed() && state.topology.members.iter().all(|it| it.status == MemberStatus::Valid));
    let placement = state.topology.placement.as_ref().unwrap();
    assert!(placement.partitions.iter().all(|partition| partition.distinct_owners(3) == 3));
    assert_eq!((record.state.root(), record.owner), (state.root(), occupant(3)));
}

#[test]
fn every_member_would_form_the_same_cluster_under_the_same_id() {
    let mut cluster = Cluster::found(2);
    let Admission::Decide(deltas) = cluster.ask(2).unwrap() else { panic!("not a member yet") };
    cluster.decide(Proposal { change: ChangeId(9), deltas });
    let first = next_step(cluster.state()).unwrap().unwrap();
    assert_eq!(next_step(&cluster.state().clone()).unwrap().unwrap(), first);
    cluster.decide(first.clone());
    let epoch = cluster.state().epoch;
    cluster.decide(first);
    assert_eq!(cluster.state().epoch, epoch, "it takes place once");
}

#[test]
fn a_member_that_asks_again_gets_the_state_again_even_when_formed() {
    let mut cluster = Cluster::found(2);
    cluster.join(2);
    assert!(cluster.state().is_formed());
    assert_eq!(cluster.ask(2), Ok(Admission::AlreadyMember));
}

#[test]
fn a_formed_cluster_takes_nobody_and_says_that_this_release_cannot() {
    let mut cluster = Cluster::found(2);
    cluster.join(2);
    let refusal = cluster.ask(3).unwrap_err();
    assert_eq!(refusal, JoinRefusal::Formed { cluster: "test".to_owned(), members: 2 });
    assert!(refusal.to_string().contains("not available in this release"));
}

#[test]
fn a_full_cluster_takes_nobody_while_it_is_being_formed() {
    let mut cluster = Cluster::found(2);
    let Admission::Decide(deltas) = cluster.ask(2).unwrap() else { panic!("not a member yet") };
    cluster.decide(Proposal { change: ChangeId(9), deltas });
    assert!(matches!(cluster.ask(3), Err(JoinRefusal::Full { members: 2, .. })));
}

#[test]
fn a_node_needs_the_right_token_of_the_right_cluster() {
    let cluster = Cluster::found(3);
    let mut request = JoinRequest::new(&cluster.token, candidate(2));
    request.lineage.0 += 1;
    assert_eq!(admit(cluster.state(), &request, [2; 32]), Err(JoinRefusal::WrongLineage));
    let mut request = JoinRequest::new(&cluster.token, candidate(2));
    request.secret = JoinSecret::draw(&test_env(&TestDisk::new(), 6));
    assert_eq!(admit(cluster.state(), &request, [2; 32]), Err(JoinRefusal::WrongSecret));
    let mut closed = cluster.state().clone();
    closed.topology.join_secret = None;
    let request = JoinRequest::new(&cluster.token, candidate(2));
    assert_eq!(admit(&closed, &request, [2; 32]), Err(JoinRefusal::WrongSecret));
}

#[test]
fn a_copied_directory_and_a_second_node_of_a_name_are_refused() {
    let cluster = Cluster::found(3);
    let ask = |candidate, fingerprint| {
        let request = JoinRequest::new(&cluster.token, candidate);
        match admit(cluster.state(), &request, fingerprint).unwrap_err() {
            JoinRefusal::Taken { what, member } => (what, member),
            other => panic!("{other}"),
        }
    };
    let named = Candidate { name: "n1".to_owned(), ..candidate(2) };
    assert_eq!(ask(named, [2; 32]), ("name".to_owned(), "n1".to_owned()));
    assert_eq!(ask(candidate(2), [1; 32]).0, "certificate");
    let cloned = Candidate { node: NodeId(1), ..candidate(2) };
    assert_eq!(ask(cloned, [2; 32]).0, "node id");
}

#[test]
fn a_candidate_that_cannot_be_is_refused_with_the_reason() {
    let cluster = Cluster::found(3);
    let two = candidate(2);
    let cases = [
        ("name", Candidate { name: String::new(), ..two.clone() }),
        ("zone", Candidate { zone: "a b".to_owned(), ..two.clone() }),
        ("address", Candidate { addr: "nowhere".to_owned(), ..two.clone() }),
        ("bulk address", Candidate { bulk_addr: ":1".to_owned(), ..two.clone() }),
        ("capacity", Candidate { capacity: 0, ..two.clone() }),
    ];
    for (expected, candidate) in cases {
        let request = JoinRequest::new(&cluster.token, candidate);
        let refusal = admit(cluster.state(), &request, [2; 32]).unwrap_err();
        assert!(matches!(&refusal, JoinRefusal::BadCandidate { what, .. } if what == expected), "{refusal}");
    }
    let old = JoinRequest::new(&cluster.token, Candidate { format_max: 0, ..two });
    assert_eq!(admit(cluster.state(), &old, [2; 32]), Err(JoinRefusal::TooOld { cluster: FORMAT, node: 0 }));
}

#[test]
fn a_cluster_that_cannot_be_is_not_founded() {
    let secret = JoinSecret::draw(&test_env(&TestDisk::new(), 5));
    let of = |founding| super::found(Lineage(3), ChangeId(1), founding, &candidate(1), [1; 32]).unwrap_err();
    assert_eq!(of(founding(0, &secret)), FoundError::Founders(0));
    assert_eq!(of(Founding { replicas: 0, ..founding(1, &secret) }), FoundError::Replicas(0));
    assert_eq!(of(Founding { replicas: 17, ..founding(1, &secret) }), FoundError::Replicas(17));
    let bad = of(Founding { name: "two words".to_owned(), ..founding(1, &secret) });
    assert!(bad.to_string().contains("cluster's name"), "{bad}");
}

#[test]
fn a_node_installs_only_a_state_of_its_cluster_that_has_it() {
    let mut cluster = Cluster::found(3);
    cluster.join(2);
    let install = |state: State, number| install(state, &cluster.token, occupant(number), [number; 32]);
    assert_eq!(install(cluster.state().clone(), 3), Err(InstallError::NotAMember));
    let mut other = cluster.state().clone();
    other.lineage.0 += 1;
    assert!(matches!(install(other, 2), Err(InstallError::OtherLineage { .. })));
    let wiped = Occupant { store: StoreId(5), ..occupant(2) };
    let refused = super::install(cluster.state().clone(), &cluster.token, wiped, [2; 32]);
    assert_eq!(refused, Err(InstallError::NotAMember));
}

#[test]
fn a_request_does_not_show_its_secret() {
    let cluster = Cluster::found(2);
    let request = JoinRequest::new(&cluster.token, candidate(2));
    let shown = format!("{request:?} {:?}", rondel_proto::Msg::new(&request));
    assert_eq!(shown.matches("secret: JoinSecret").count(), 2, "{shown}");
}
