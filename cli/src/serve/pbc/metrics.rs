//! What the Protocol Buffers listener reports.

use metrics::{
    Counter, Gauge, Histogram, Recorder, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use rondel_proto::riak::Code;
use std::time::Duration;

const REQUESTS: &str = "rondel_cli_pb_request_seconds";

/// The metrics of a listener.
#[derive(Clone)]
pub(crate) struct PbMetrics {
    pub(super) connections: Gauge,
    pub(super) connections_refused: Counter,
    pub(super) connections_broken: Counter,
    get: Outcomes,
    put: Outcomes,
    delete: Outcomes,
    list: Outcomes,
    other: Outcomes,
}

#[derive(Clone)]
struct Outcomes {
    ok: Histogram,
    failed: Histogram,
}

impl PbMetrics {
    /// Registers them.
    pub(crate) fn new(recorder: &dyn Recorder) -> Self {
        metrics::with_local_recorder(recorder, || {
            describe_gauge!("rondel_cli_pb_connections", Unit::Count, "Open Protocol Buffers connections");
            describe_counter!(
                "rondel_cli_pb_connections_refused_total",
                Unit::Count,
                "Connections closed at once because there were too many"
            );
            describe_counter!(
                "rondel_cli_pb_connections_broken_total",
                Unit::Count,
                "Connections closed because the client broke the protocol or was too slow"
            );
            describe_histogram!(
                REQUESTS,
                Unit::Seconds,
                "Time from the first bytes of a request to its whole answer"
            );
            Self {
                connections: gauge!("rondel_cli_pb_connections"),
                connections_refused: counter!("rondel_cli_pb_connections_refused_total"),
                connections_broken: counter!("rondel_cli_pb_connections_broken_total"),
                get: Outcomes::new("get"),
                put: Outcomes::new("put"),
                delete: Outcomes::new("delete"),
                list: Outcomes::new("list"),
                other: Outcomes::new("other"),
            }
        })
    }

    /// Takes in one request.
    pub(super) fn answered(&self, code: u8, ok: bool, after: Duration) {
        let outcomes = match Code::from_number(code) {
            Some(Code::RpbGetReq) => &self.get,
            Some(Code::RpbPutReq) => &self.put,
            Some(Code::RpbDelReq) => &self.delete,
            Some(Code::RpbListKeysReq | Code::RpbListBucketsReq) => &self.list,
            _ => &self.other,
        };
        if ok { &outcomes.ok } else { &outcomes.failed }.record(after.as_secs_f64());
    }
}

impl Outcomes {
    fn new(operation: &'static str) -> Self {
        Self {
            ok: histogram!(REQUESTS, "operation" => operation, "outcome" => "ok"),
            failed: histogram!(REQUESTS, "operation" => operation, "outcome" => "failed"),
        }
    }
}
