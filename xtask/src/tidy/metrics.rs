//! Every metric that the code reports is on the page for operators.

use super::{Finding, source::Source};

/// The page.
pub(super) const PAGE: &str = "docs/operations.md";

/// Names in code (string literals) that the page does not have.
pub(super) fn check(sources: &[Source], page: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.is_within("xtask")) {
        for word in &source.words {
            let Some(name) = word.text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
                continue;
            };
            if is_metric(name) && !page.contains(&format!("`{name}`")) {
                let text = format!("the metric `{name}` is not in {PAGE}");
                findings.push(Finding { path: source.path.clone(), line: word.line, text });
            }
        }
    }
    findings.dedup_by(|a, b| a.text == b.text);
    findings
}

fn is_metric(text: &str) -> bool {
    ["rondel_core_", "rondel_kv_", "rondel_dt_", "rondel_cli_"].iter().any(|prefix| text.starts_with(prefix))
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_the_page_lacks_is_found() {
        let text = "fn f() { counter!(\"rondel_kv_puts_total\"); gauge!(\"rondel_kv_size_bytes\"); \"rondel_kv-x\" }";
        let source = Source::parse("kv/src/metrics.rs".into(), text).unwrap();
        let found = check(&[source], "| `rondel_kv_size_bytes` | … |");
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("`rondel_kv_puts_total`"));
    }
}
