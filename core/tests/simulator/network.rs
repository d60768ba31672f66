//! Datagrams: what the network does to them. Over the bare sockets, without QUIC.

use quinn::{
    AsyncUdpSocket,
    udp::{RecvMeta, Transmit},
};
use rondel_core::{
    env::Env,
    testing::{Link, Sim, ip, node_of},
};
use std::{
    future::poll_fn,
    io::IoSliceMut,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

type Received = Arc<Mutex<Vec<(Vec<u8>, SocketAddr)>>>;

fn send(socket: &dyn AsyncUdpSocket, to: SocketAddr, contents: &[u8]) {
    let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
    socket.try_send(&transmit).unwrap();
}

async fn receive(socket: &dyn AsyncUdpSocket) -> (Vec<u8>, SocketAddr) {
    let (mut bytes, mut meta) = (vec![0; 65_536], [RecvMeta::default()]);
    let count =
        poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut meta)).await.unwrap();
    assert_eq!(count, 1);
    bytes.truncate(meta[0].len);
    (bytes, meta[0].addr)
}

/// Collects what a node receives.
fn listen(env: &Env, port: u16) -> Received {
    let received = Received::default();
    let (socket, log) = (env.bind(SocketAddr::new([0, 0, 0, 0].into(), port)).unwrap(), received.clone());
    env.spawn("listener", async move {
        loop {
            let datagram = receive(&*socket).await;
            log.lock().unwrap().push(datagram);
        }
    });
    received
}

/// Two nodes: the socket of one, and what the other receives on port 9.
fn pair(sim: &Sim) -> (Arc<dyn AsyncUdpSocket>, Received) {
    let (one, two) = (sim.node_env(1), sim.node_env(2));
    (one.bind(to(1, 8)).unwrap(), listen(&two, 9))
}

fn to(node: u32, port: u16) -> SocketAddr {
    SocketAddr::new(ip(node), port)
}

fn count(received: &Received) -> usize {
    received.lock().unwrap().len()
}

#[test]
fn addresses_and_nodes_belong_to_each_other() {
    for node in [0, 1, 254, 255, 256, 70_000] {
        assert_eq!(node_of(ip(node)), Some(node));
    }
    assert_eq!(node_of([127, 0, 0, 1].into()), None);
    assert_eq!(ip(0).to_string(), "10.0.0.1");
}

#[test]
fn a_datagram_arrives_late_and_whole_with_its_sender() {
    let sim = Sim::new(1);
    sim.net().set_links(Link::perfect());
    let (socket, received) = pair(&sim);
    send(&*socket, to(2, 9), b"hello");
    sim.run_for(Duration::from_micros(499));
    assert_eq!(count(&received), 0);
    sim.run_for(Duration::from_micros(2));
    assert_eq!(*received.lock().unwrap(), [(b"hello".to_vec(), to(1, 8))]);
}

#[test]
fn nodes_are_in_touch_while_datagrams_go_both_ways() {
    let sim = Sim::new(1);
    sim.net().set_links(Link::perfect());
    let nodes = [0, 1, 2, 3].map(|node| (sim.node_env(node), node));
    let sockets = nodes.each_ref().map(|(env, node)| env.bind(to(*node, 9)).unwrap());
    let speak = |from: usize, node: u32| send(&*sockets[from], to(node, 9), b"hello");
    let step = || sim.run_for(Duration::from_millis(1));
    let in_touch = |since| sim.net().in_touch(0, since).into_iter().collect::<Vec<_>>();
    speak(0, 1);
    speak(1, 2);
    speak(3, 0);
    step();
    assert_eq!(in_touch(Duration::ZERO), [0], "nobody has been answered");
    let answered = sim.elapsed();
    speak(1, 0);
    speak(2, 1);
    step();
    assert_eq!(in_touch(Duration::ZERO), [0, 1, 2], "2 by way of 1");
    assert_eq!(in_touch(answered), [0], "nothing has gone out since");
}

#[test]
fn batches_are_cut_into_their_segments() {
    let sim = Sim::new(1);
    sim.net().set_links(Link::perfect());
    let (socket, received) = pair(&sim);
    let transmit = Transmit {
        destination: to(2, 9),
        ecn: None,
        contents: b"aabbc",
        segment_size: Some(2),
        src_ip: None,
    };
    socket.try_send(&transmit).unwrap();
    sim.run_for(Duration::from_secs(1));
    let mut segments: Vec<_> = received.lock().unwrap().iter().map(|(bytes, _)| bytes.clone()).collect();
    segments.sort();
    assert_eq!(segments, [b"aa".to_vec(), b"bb".to_vec(), b"c".to_vec()]);
}

#[test]
fn datagrams_are_lost_doubled_and_overtaken_as_often_as_the_link_says() {
    let sim = Sim::new(1);
    sim.net().set_links(Link { loss: 0.2, duplication: 0.1, ..Link::default() });
    let (socket, received) = pair(&sim);
    for number in 0..1000_u32 {
        send(&*socket, to(2, 9), &number.to_be_bytes());
    }
    sim.run_for(Duration::from_secs(1));
    let numbers: Vec<_> = received.lock().unwrap().iter().map(|(bytes, _)| bytes.clone()).collect();
    let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
    assert!((740..860).contains(&distinct.len()), "{} arrived", distinct.len());
    assert!(
        (50..120).contains(&(numbers.len() - distinct.len())),
        "{} twice",
        numbers.len() - distinct.len()
    );
    assert!(!numbers.is_sorted());
}

#[test]
fn a_cut_is_one_way_and_eats_what_is_under_way() {
    let sim = Sim::new(1);
    sim.net().set_links(Link::perfect());
    let (socket, received) = pair(&sim);
    send(&*socket, to(2, 9), b"under way");
    sim.net().cut(1, 2);
    assert!(sim.net().is_cut(1, 2) && !sim.net().is_cut(2, 1));
    send(&*socket, to(2, 9), b"after the cut");
    let back = listen(&sim.node_env(1), 10);
    let other = sim.node_env(2).bind(to(2, 0)).unwrap();
    send(&*other, to(1, 10), b"the other way");
    sim.run_for(Duration::from_secs(1));
    assert_eq!((count(&received), count(&back)), (0, 1));
    sim.net().mend(1, 2);
    send(&*socket, to(2, 9), b"mended");
    sim.run_for(Duration::from_secs(1));
    assert_eq!(count(&received), 1);
}

#[test]
fn a_partition_separates_groups_and_spares_the_rest() {
    let sim = Sim::new(1);
    let net = sim.net();
    net.partition(&[&[0, 1], &[2], &[3]]);
    for (from, to, cut) in
        [(0, 2, true), (2, 0, true), (2, 3, true), (0, 1, false), (4, 0, false), (3, 4, false)]
    {
        assert_eq!(net.is_cut(from, to), cut, "{from} to {to}");
    }
    net.heal();
    assert!(!net.is_cut(0, 2));
    net.isolate(1, 0..3);
    assert!(net.is_cut(1, 0) && net.is_cut(2, 1) && !net.is_cut(0, 2));
}

#[test]
fn a_flapping_link_is_up_and_down_by_turns() {
    let sim = Sim::new(1);
    let net = sim.net();
    net.flap(1, 2, Duration::from_secs(2), Duration::from_secs(1));
    let mut down = Vec::new();
    for _ in 0..6 {
        down.push(net.is_cut(1, 2));
        sim.run_for(Duration::from_secs(1));
    }
    assert_eq!(down, [false, false, true, false, false, true]);
}

#[test]
fn what_is_too_big_for_a_link_vanishes() {
    let sim = Sim::new(1);
    sim.net().set_links(Link::perfect());
    let (socket, received) = pair(&sim);
    sim.net().set_link(1, 2, Link { datagram_bytes_max: 1200, ..Link::perfect() });
    send(&*socket, to(2, 9), &[1; 1201]);
    send(&*socket, to(2, 9), &[2; 1200]);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(count(&received), 1);
    sim.net().reset_links();
    send(&*socket, to(2, 9), &[1; 1201]);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(count(&received), 2);
}

#[test]
fn a_narrow_link_takes_its_time_and_drops_what_waits_too_long() {
    let sim = Sim::new(1);
    let narrow = Link { bandwidth: Some(100_000), queue_max: Duration::from_millis(50), ..Link::perfect() };
    sim.net().set_links(narrow);
    let (socket, received) = pair(&sim);
    for _ in 0..20 {
        send(&*socket, to(2, 9), &[0; 1000]); // ten milliseconds each
    }
    sim.run_for(Duration::from_millis(45));
    assert_eq!(count(&received), 4);
    sim.run_for(Duration::from_secs(1));
    assert_eq!(count(&received), 6);
}

#[test]
fn sockets_of_a_killed_node_vanish_and_their_ports_are_free_again() {
    let sim = Sim::new(1);
    let (socket, received) = pair(&sim);
    let again = sim.node_env(1);
    assert_eq!(again.bind(to(1, 8)).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    sim.kill(1);
    send(&*socket, to(2, 9), b"from the grave");
    let again = sim.node_env(1).bind(to(1, 8)).unwrap();
    drop(socket);
    send(&*again, to(2, 9), b"from its successor");
    sim.run_for(Duration::from_secs(1));
    assert_eq!(*received.lock().unwrap(), [(b"from its successor".to_vec(), to(1, 8))]);
}

#[test]
fn a_node_has_its_own_address_only_and_any_port_is_a_new_one() {
    let sim = Sim::new(1);
    let env = sim.node_env(1);
    assert_eq!(env.bind(to(2, 9)).unwrap_err().kind(), std::io::ErrorKind::AddrNotAvailable);
    let sockets = [0, 0].map(|_| env.bind("[::]:0".parse().unwrap()).unwrap());
    let ports = sockets.each_ref().map(|socket| socket.local_addr().unwrap().port());
    assert!(ports[0] != ports[1] && ports[0] > 0);
}

#[test]
fn a_node_reaches_itself_over_loopback_and_over_its_address() {
    let sim = Sim::new(1);
    let env = sim.node_env(3);
    let received = listen(&env, 9);
    let socket = env.bind("127.0.0.1:8".parse().unwrap()).unwrap();
    send(&*socket, "127.0.0.1:9".parse().unwrap(), b"one");
    sim.run_for(Duration::from_secs(1));
    send(&*socket, to(3, 9), b"two");
    sim.run_for(Duration::from_secs(1));
    let senders: Vec<_> = received.lock().unwrap().iter().map(|(_, from)| *from).collect();
    assert_eq!(senders, ["127.0.0.1:8".parse().unwrap(), to(3, 8)]);
}

#[test]
fn nobody_answers_from_an_address_that_no_node_has() {
    let sim = Sim::new(1);
    sim.keep_log(1);
    let (socket, _) = pair(&sim);
    send(&*socket, "192.168.0.1:1".parse().unwrap(), b"hello");
    assert!(sim.log()[0].contains("Nobody"), "{:?}", sim.log());
    let pending = sim.run_until(async {
        let mut bytes = [0; 10];
        let poll = poll_fn(|cx| {
            Poll::Ready(socket.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut [RecvMeta::default()]))
        });
        poll.await.is_pending()
    });
    assert!(pending);
}
