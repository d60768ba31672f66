//! Every metric of core: its name, its unit, and what it says.
//!
//! Names are `rondel_core_<noun>_<unit>`; labels have few values (services, operations, outcomes). Each node has its
//! own recorder: nothing here is global, so that many nodes can run in one process.

use crate::store::StoreMeters;
use metrics::{
    Counter, Gauge, Histogram, Recorder, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use std::{sync::Arc, time::Duration};

/// Where a node's metrics go.
pub type SharedRecorder = Arc<dyn Recorder + Send + Sync>;

/// What the lanes report.
#[derive(Clone)]
pub(crate) struct LaneMetrics {
    pub(crate) batch_jobs: Histogram,
    pub(crate) refused_jobs: Counter,
    pub(crate) unreadable_rows: Counter,
    pub(crate) foreign_dots: Counter,
    pub(crate) hints_written: Counter,
}

/// What one operation of one service reports.
#[derive(Clone)]
pub(crate) struct OperationMetrics {
    ok: Histogram,
    failed: Histogram,
}

impl OperationMetrics {
    /// Takes in one finished request.
    pub(crate) fn finished(&self, ok: bool, after: Duration) {
        if ok { &self.ok } else { &self.failed }.record(after.as_secs_f64());
    }
}

/// What one service reports, as the coordinator of its requests.
#[derive(Clone)]
pub(crate) struct ServiceMetrics {
    pub(crate) read: OperationMetrics,
    pub(crate) update: OperationMetrics,
    pub(crate) scan: OperationMetrics,
    pub(crate) other: OperationMetrics,
}

/// All of core's metrics of one node.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) lane: LaneMetrics,
    pub(crate) services: Vec<ServiceMetrics>,
    pub(crate) read_repairs: Counter,
    pub(crate) hedged_writes: Counter,
    pub(crate) hints_delivered: Counter,
    pub(crate) strays_removed: Counter,
    pub(crate) refilled_rows: Counter,
    pub(crate) refilled_bytes: Counter,
    pub(crate) hints_kept: Gauge,
    pub(crate) mailbox_jobs: Gauge,
    pub(crate) peers_up: Gauge,
    pub(crate) peers_connected: Gauge,
    pub(crate) members: Gauge,
    pub(crate) epoch: Gauge,
    pub(crate) clock_behind_seconds: Gauge,
    pub(crate) store: StoreMeters,
    pub(crate) store_backlog_bytes: Gauge,
    pub(crate) store_frozen_bytes: Gauge,
    pub(crate) store_log_bytes: Gauge,
    pub(crate) store_kept_log_bytes: Gauge,
    pub(crate) store_live_value_bytes: Gauge,
    pub(crate) store_collected_segments: Counter,
    pub(crate) store_opening_seconds: Gauge,
    pub(crate) store_recovered_batches: Gauge,
    pub(crate) store_cache_bytes: Gauge,
    pub(crate) store_file_bytes: Gauge,
    pub(crate) store_commits: Counter,
    pub(crate) store_batches: Counter,
    pub(crate) store_applied_bytes: Counter,
    pub(crate) store_written_bytes: Counter,
    pub(crate) store_table_written_bytes: Counter,
    pub(crate) store_hits: Counter,
    pub(crate) store_cache_hits: Counter,
    pub(crate) store_misses: Counter,
    pub(crate) store_filter_bytes: Gauge,
    pub(crate) store_denied: Counter,
    pub(crate) store_vain_reads: Counter,
    pub(crate) store_compactions: Counter,
    pub(crate) store_scrub_rounds: Counter,
    pub(crate) store_scrubbed_rows: Counter,
    pub(crate) store_scrubbed_bytes: Counter,
    pub(crate) store_damaged_rows: Gauge,
    pub(crate) store_gap_ratio: Gauge,
    pub(crate) store_compacted_bytes: Counter,
    pub(crate) store_failed: Gauge,
}

impl Metrics {
    pub(crate) fn new(recorder: &SharedRecorder, services: &[&'static str]) -> Self {
        metrics::with_local_recorder(recorder.as_ref(), || {
            describe();
            Self {
                lane: LaneMetrics {
                    batch_jobs: histogram!("rondel_core_lane_batch_jobs"),
                    refused_jobs: counter!("rondel_core_lane_refused_jobs_total"),
                    unreadable_rows: counter!("rondel_core_unreadable_rows_total"),
                    foreign_dots: counter!("rondel_core_foreign_dots_total"),
                    hints_written: counter!("rondel_core_hints_written_total"),
                },
                services: services.iter().map(|service| of_service(service)).collect(),
                read_repairs: counter!("rondel_core_read_repairs_total"),
                hedged_writes: counter!("rondel_core_hedged_writes_total"),
                hints_delivered: counter!("rondel_core_hints_delivered_total"),
                strays_removed: counter!("rondel_core_strays_removed_total"),
                refilled_rows: counter!("rondel_core_refilled_rows_total"),
                refilled_bytes: counter!("rondel_core_refilled_bytes_total"),
                hints_kept: gauge!("rondel_core_hints_kept"),
                mailbox_jobs: gauge!("rondel_core_lane_mailbox_jobs"),
                peers_up: gauge!("rondel_core_peers_up"),
                peers_connected: gauge!("rondel_core_peers_connected"),
                members: gauge!("rondel_core_members"),
                epoch: gauge!("rondel_core_epoch"),
                clock_behind_seconds: gauge!("rondel_core_clock_behind_seconds"),
                store: StoreMeters {
                    group_batches: histogram!("rondel_core_store_group_batches"),
                    group_bytes: histogram!("rondel_core_store_group_bytes"),
                    sync_seconds: histogram!("rondel_core_store_sync_seconds"),
                },
                store_backlog_bytes: gauge!("rondel_core_store_backlog_bytes"),
                store_frozen_bytes: gauge!("rondel_core_store_frozen_bytes"),
                store_log_bytes: gauge!("rondel_core_store_log_bytes"),
                store_kept_log_bytes: gauge!("rondel_core_store_kept_log_bytes"),
                store_live_value_bytes: gauge!("rondel_core_store_live_value_bytes"),
                store_collected_segments: counter!("rondel_core_store_collected_segments_total"),
                store_opening_seconds: gauge!("rondel_core_store_opening_seconds"),
                store_recovered_batches: gauge!("rondel_core_store_recovered_batches"),
                store_cache_bytes: gauge!("rondel_core_store_cache_bytes"),
                store_file_bytes: gauge!("rondel_core_store_file_bytes"),
                store_commits: counter!("rondel_core_store_commits_total"),
                store_batches: counter!("rondel_core_store_batches_total"),
                store_applied_bytes: counter!("rondel_core_store_applied_bytes_total"),
                store_written_bytes: counter!("rondel_core_store_written_bytes_total"),
                store_table_written_bytes: counter!("rondel_core_store_table_written_bytes_total"),
                store_hits: counter!("rondel_core_store_hits_total"),
                store_cache_hits: counter!("rondel_core_store_cache_hits_total"),
                store_misses: counter!("rondel_core_store_misses_total"),
                store_filter_bytes: gauge!("rondel_core_store_filter_bytes"),
                store_denied: counter!("rondel_core_store_denied_total"),
                store_vain_reads: counter!("rondel_core_store_vain_reads_total"),
                store_compactions: counter!("rondel_core_store_compactions_total"),
                store_scrub_rounds: counter!("rondel_core_store_scrub_rounds_total"),
                store_scrubbed_rows: counter!("rondel_core_store_scrubbed_rows_total"),
                store_scrubbed_bytes: counter!("rondel_core_store_scrubbed_bytes_total"),
                store_damaged_rows: gauge!("rondel_core_store_damaged_rows"),
                store_gap_ratio: gauge!("rondel_core_store_gap_ratio"),
                store_compacted_bytes: counter!("rondel_core_store_compacted_bytes_total"),
                store_failed: gauge!("rondel_core_store_failed"),
            }
        })
    }
}

fn of_service(service: &'static str) -> ServiceMetrics {
    let operation = |name: &'static str| {
        let outcome = |outcome: &'static str| histogram!("rondel_core_request_seconds", "service" => service, "operation" => name, "outcome" => outcome);
        OperationMetrics { ok: outcome("ok"), failed: outcome("failed") }
    };
    ServiceMetrics {
        read: operation("read"),
        update: operation("update"),
        scan: operation("scan"),
        other: operation("other"),
    }
}

fn describe() {
    let count = Unit::Count;
    describe_histogram!(
        "rondel_core_request_seconds",
        Unit::Seconds,
        "time from a request's arrival at its coordinator to its answer (of a scan: each page), by service, operation and outcome"
    );
    describe_histogram!("rondel_core_lane_batch_jobs", count, "jobs that a lane took up at once");
    describe_counter!(
        "rondel_core_lane_refused_jobs_total",
        count,
        "jobs refused because a lane's mailbox was full"
    );
    describe_counter!(
        "rondel_core_unreadable_rows_total",
        count,
        "reads of rows whose checksum failed or that are holes"
    );
    describe_counter!(
        "rondel_core_foreign_dots_total",
        count,
        "items that knew of writes under this node's name that it had not issued; any is an alarm"
    );
    describe_counter!(
        "rondel_core_read_repairs_total",
        count,
        "items sent to owners that a read found behind"
    );
    describe_counter!(
        "rondel_core_hedged_writes_total",
        count,
        "writes sent to a stand-in because an owner was slow or failed"
    );
    describe_counter!("rondel_core_hints_written_total", count, "hints taken for slots of other nodes");
    describe_counter!("rondel_core_hints_delivered_total", count, "hints delivered and removed");
    describe_counter!(
        "rondel_core_strays_removed_total",
        count,
        "rows removed because all their owners hold them and this node owns no slot for them"
    );
    describe_counter!(
        "rondel_core_refilled_rows_total",
        count,
        "items fetched from other owners in place of those that were lost with a file of the store"
    );
    describe_counter!("rondel_core_refilled_bytes_total", Unit::Bytes, "bytes of these items");
    describe_gauge!("rondel_core_hints_kept", count, "hints that wait on this node for their owners");
    describe_gauge!("rondel_core_lane_mailbox_jobs", count, "jobs that wait in the lanes' mailboxes");
    describe_gauge!("rondel_core_peers_up", count, "other members that this node believes to be up");
    describe_gauge!("rondel_core_peers_connected", count, "other members to which a connection stands");
    describe_gauge!("rondel_core_members", count, "members of the decided state");
    describe_gauge!("rondel_core_epoch", count, "entries of the decided sequence that this node knows");
    describe_gauge!(
        "rondel_core_clock_behind_seconds",
        Unit::Seconds,
        "how far this node's calendar clock is behind the median of its peers'; beyond one either way is an alarm"
    );
    describe_store();
    describe_gauge!(
        "rondel_core_store_failed",
        count,
        "1 after the store has stopped because of an I/O error"
    );
}

fn describe_store() {
    let count = Unit::Count;
    describe_histogram!(
        "rondel_core_store_group_batches",
        count,
        "batches of the lanes that the log made durable with one sync"
    );
    describe_histogram!(
        "rondel_core_store_group_bytes",
        Unit::Bytes,
        "bytes that were written to the log for one sync"
    );
    describe_histogram!("rondel_core_store_sync_seconds", Unit::Seconds, "how long a sync of the log took");
    describe_gauge!(
        "rondel_core_store_backlog_bytes",
        Unit::Bytes,
        "bytes of rows in memtables: durable in the log or about to be, and not yet in the tables"
    );
    describe_gauge!(
        "rondel_core_store_frozen_bytes",
        Unit::Bytes,
        "bytes of the backlog that a flush is moving into the tables"
    );
    describe_gauge!(
        "rondel_core_store_log_bytes",
        Unit::Bytes,
        "bytes of log that a start after a crash would read"
    );
    describe_gauge!(
        "rondel_core_store_kept_log_bytes",
        Unit::Bytes,
        "bytes of log that no start would read, and that are kept for the values in them"
    );
    describe_gauge!(
        "rondel_core_store_live_value_bytes",
        Unit::Bytes,
        "bytes of log that rows have their values in"
    );
    describe_counter!(
        "rondel_core_store_collected_segments_total",
        count,
        "segments of the log that were cleared away: what rows needed of them was written anew"
    );
    describe_gauge!(
        "rondel_core_store_opening_seconds",
        Unit::Seconds,
        "how long it took to open the store at the last start"
    );
    describe_gauge!(
        "rondel_core_store_recovered_batches",
        count,
        "batches that the last start read from the log"
    );
    describe_counter!(
        "rondel_core_store_applied_bytes_total",
        Unit::Bytes,
        "bytes of keys and values that were given to the store; the next two counters over this one are its write amplification"
    );
    describe_counter!(
        "rondel_core_store_written_bytes_total",
        Unit::Bytes,
        "bytes written to the log, and to new segments of it, which are filled with zeroes once"
    );
    describe_counter!(
        "rondel_core_store_table_written_bytes_total",
        Unit::Bytes,
        "bytes written to the files of rows"
    );
    describe_gauge!("rondel_core_store_cache_bytes", Unit::Bytes, "bytes of rows in the store's cache");
    describe_gauge!("rondel_core_store_file_bytes", Unit::Bytes, "bytes that the files of rows occupy");
    describe_counter!("rondel_core_store_commits_total", count, "groups of batches made durable together");
    describe_counter!("rondel_core_store_batches_total", count, "batches made durable");
    describe_counter!("rondel_core_store_hits_total", count, "row look-ups that memory answered");
    describe_counter!(
        "rondel_core_store_cache_hits_total",
        count,
        "row look-ups that the cache answered; the others that memory answered are of memtables and the filter"
    );
    describe_counter!(
        "rondel_core_store_misses_total",
        count,
        "row look-ups that only the disk could answer"
    );
    describe_gauge!(
        "rondel_core_store_filter_bytes",
        Unit::Bytes,
        "memory that knows which rows the store's tables do not have"
    );
    describe_counter!(
        "rondel_core_store_denied_total",
        count,
        "row look-ups that the filter answered: there is no such row"
    );
    describe_counter!(
        "rondel_core_store_vain_reads_total",
        count,
        "reads of the disk that found no row, because the filter was wrong or not ready"
    );
    describe_counter!(
        "rondel_core_store_compactions_total",
        count,
        "files of rows that were mostly free and have been replaced by smaller ones"
    );
    describe_counter!(
        "rondel_core_store_compacted_bytes_total",
        Unit::Bytes,
        "room on the disk that compactions gave back"
    );
    describe_counter!(
        "rondel_core_store_scrub_rounds_total",
        count,
        "times that the scrubber came to the end of the rows"
    );
    describe_counter!(
        "rondel_core_store_scrubbed_rows_total",
        count,
        "rows whose checksums the scrubber has tried"
    );
    describe_counter!("rondel_core_store_scrubbed_bytes_total", Unit::Bytes, "bytes of these rows");
    describe_gauge!(
        "rondel_core_store_damaged_rows",
        count,
        "rows that the scrubber found damaged in its last round, or in this one if that is more"
    );
    describe_gauge!(
        "rondel_core_store_gap_ratio",
        count,
        "share of all positions at which rows were lost with a file and have not come back yet"
    );
}
