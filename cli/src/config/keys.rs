//! Every key of the configuration: its kind, default and meaning. The one list behind the parser, the checks,
//! `rondel config describe` and the documentation.

use super::value::Kind;

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its dotted name: section and key in the file.
    pub(crate) name: &'static str,
    /// What its value may be.
    pub(crate) kind: Kind,
    /// Its value if nothing sets it, as it would be given on the command line; empty for none.
    pub(crate) default: &'static str,
    /// What it is for.
    pub(crate) about: &'static str,
}

impl Key {
    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        format!("RONDEL_{}", self.name.replace('.', "_").to_uppercase())
    }
}

/// The keys, in the order of the documentation.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "node.name",
        kind: Kind::Name,
        default: "",
        about: "What people call this node, in `rondel status` and in logs. The machine's host name if empty. The node's \
                identity is in its data directory, so a name may change.",
    },
    Key {
        name: "node.dir",
        kind: Kind::Path,
        default: "rondel-data",
        about: "The data directory. It is made if it is missing, and belongs to one node for ever.",
    },
    Key {
        name: "node.zone",
        kind: Kind::Name,
        default: "default",
        about: "What this node shares its fate with: a rack, a data centre. Copies are spread over zones.",
    },
    Key {
        name: "node.capacity",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "100",
        about: "How much of the data this node takes, in relation to the capacities of the others.",
    },
    Key {
        name: "node.lanes",
        kind: Kind::Count { min: 1, max: 256 },
        default: "",
        about: "How many threads run the partitions of this node. One for each core of the machine, at most 8, if empty.",
    },
    Key {
        name: "node.workers",
        kind: Kind::Count { min: 1, max: 256 },
        default: "",
        about: "How many threads serve the network: clients' connections and those of other nodes. One for each core of the \
                machine, at most 8, if empty.",
    },
    Key {
        name: "listen.pb",
        kind: Kind::Address,
        default: "127.0.0.1:8087",
        about: "Where Protocol Buffers clients connect (TCP).",
    },
    Key {
        name: "listen.admin",
        kind: Kind::Address,
        default: "127.0.0.1:8093",
        about: "Where `rondel status`, health checks and Prometheus connect (HTTP over TCP).",
    },
    Key {
        name: "listen.cluster",
        kind: Kind::Address,
        default: "127.0.0.1:8099",
        about: "Where other nodes connect for requests and gossip (QUIC over UDP).",
    },
    Key {
        name: "listen.bulk",
        kind: Kind::Address,
        default: "127.0.0.1:8100",
        about: "Where other nodes connect for handoff and repair (QUIC over UDP).",
    },
    Key {
        name: "advertise.host",
        kind: Kind::Host,
        default: "",
        about: "The IP address under which the other nodes reach this one. The listening address if empty; required if \
                that is 0.0.0.0 or [::].",
    },
    Key {
        name: "cluster.name",
        kind: Kind::Name,
        default: "rondel",
        about: "What people call a new cluster. Only used by the node that starts it.",
    },
    Key {
        name: "cluster.join",
        kind: Kind::Secret,
        default: "",
        about: "The token of a cluster to join, or `@FILE` to read it from a file. Only used by a node that is in no \
                cluster yet.",
    },
    Key {
        name: "cluster.founders",
        kind: Kind::Count { min: 1, max: 64 },
        default: "1",
        about: "How many members a new cluster is formed of. Until so many have joined, it stores nothing. Only used by \
                the node that starts the cluster.",
    },
    Key {
        name: "cluster.partitions",
        kind: Kind::PowerOfTwo { min: 8, max: 32_768 },
        default: "64",
        about: "Into how many partitions the ring of a new cluster is divided. Only used by the node that starts it.",
    },
    Key {
        name: "cluster.replicas",
        kind: Kind::Count { min: 1, max: 7 },
        default: "3",
        about: "How many copies a new cluster keeps of each partition. Only used by the node that starts it.",
    },
    Key {
        name: "store.backend",
        kind: Kind::Choice(&["log", "redb"]),
        default: "log",
        about: "What keeps the rows: a commit log with tables behind it, or one plain redb file, which is slower. A data \
                directory stays with the one that it was made with.",
    },
    Key {
        name: "store.files",
        kind: Kind::Count { min: 1, max: 256 },
        default: "16",
        about: "In how many files a new data directory keeps its rows, rounded up to a power of two. One that is damaged \
                is replaced, and filled by the other nodes; a directory with a single file needs all of it.",
    },
    Key {
        name: "store.refill_bytes_per_s",
        kind: Kind::Bytes { min: 1 << 10 },
        default: "16MiB",
        about: "How much is fetched from other nodes in a second, in place of rows that were lost with a damaged file.",
    },
    Key {
        name: "store.cache_bytes",
        kind: Kind::Bytes { min: 1 << 20 },
        default: "64MiB",
        about: "Memory for rows that are read often.",
    },
    Key {
        name: "store.page_cache_bytes",
        kind: Kind::Bytes { min: 1 << 20 },
        default: "64MiB",
        about: "Memory for pages of the store's files.",
    },
    Key {
        name: "store.filter_bytes",
        kind: Kind::Bytes { min: 0 },
        default: "16MiB",
        about: "Memory that knows which rows the disk does not have, so that the first write of a key reads nothing. \
                1.25 bytes for each row make it right 99 times in 100.",
    },
    Key {
        name: "store.scrub_bytes_per_s",
        kind: Kind::Bytes { min: 0 },
        default: "4MiB",
        about: "How much of the rows on disk is read in a second, only to see whether it is still as it was written. A \
                round begins an hour after the one before; 0 for none.",
    },
    Key {
        name: "store.backlog_bytes_max",
        kind: Kind::Bytes { min: 1 << 20 },
        default: "64MiB",
        about: "Bytes that may wait for the disk before clients' writes are refused; from four fifths of it on they are \
                slowed down.",
    },
    Key {
        name: "store.disk_reserve_bytes",
        kind: Kind::Bytes { min: 1 << 20 },
        default: "256MiB",
        about: "Room on the disk that clients' writes leave alone: when less is free, they are refused.",
    },
    Key {
        name: "log.level",
        kind: Kind::Filter,
        default: "info",
        about: "What to log: error, warn, info, debug, trace, or a list such as `info,rondel_core=debug`.",
    },
    Key {
        name: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: "text",
        about: "How to log, on standard error.",
    },
];

/// The key of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known key whose name is most like this one, if any is like it at all.
pub(crate) fn nearest(name: &str) -> Option<&'static Key> {
    const LIKENESS_MIN: f64 = 0.75;
    let likeness = |key: &&Key| strsim::jaro_winkler(&name.to_lowercase(), key.name);
    let best = KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= LIKENESS_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value_of_its_key() {
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            assert!(key.kind.parse(key.default).is_ok(), "{}", key.name);
        }
    }

    #[test]
    fn names_and_variables_are_unique() {
        let mut variables = KEYS.iter().map(Key::variable).collect::<Vec<_>>();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
        assert_eq!(find("listen.pb").unwrap().variable(), "RONDEL_LISTEN_PB");
    }

    #[test]
    fn a_misspelt_key_leads_to_the_nearest_and_nonsense_to_none() {
        assert_eq!(nearest("listen.adminn").unwrap().name, "listen.admin");
        assert_eq!(nearest("cluster.replica").unwrap().name, "cluster.replicas");
        assert!(nearest("zzz").is_none());
    }
}
