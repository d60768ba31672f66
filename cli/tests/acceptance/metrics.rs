//! What a node tells Prometheus.

use crate::harness::{Node, eventually, rondel};

/// The page that tells operators of every metric.
const PAGE: &str = include_str!("../../../docs/operations.md");

#[test]
fn a_node_reports_every_metric_of_its_store_that_the_page_has() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &[]);
    node.serves();
    for key in ["one", "two", "three"] {
        rondel(["kv", "put", "b", key, "a value", "--hosts", node.pb()]).ok();
    }
    let names = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: Vec<_> = names.filter(|name| name.starts_with("rondel_core_store_")).collect();
    assert!(names.len() > 25, "{names:?}");
    let text = node.metrics();
    for name in names {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is not in {text}");
    }
    for counted in ["group_batches_count", "group_bytes_sum", "sync_seconds_count", "written_bytes_total"] {
        let name = format!("rondel_core_store_{counted} ");
        eventually("what was put is counted", || {
            let text = node.metrics();
            let value = text.lines().find_map(|line| line.strip_prefix(&*name)).unwrap();
            (value.parse::<f64>().unwrap() >= 3.0).then_some(())
        });
    }
}
