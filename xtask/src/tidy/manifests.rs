//! I2 in the manifests: who may depend on whom inside the workspace.

use super::Finding;
use anyhow::Context;
use std::path::Path;
use toml::Table;

/// Each package that is bound, and what it may use of ours.
const MAY_USE: [(&str, &[&str]); 5] = [
    ("rondel-macros", &[]),
    ("rondel-proto", &["rondel-macros", "rondel-proto"]),
    ("rondel-core", &["rondel-proto", "rondel-core"]),
    ("rondel-kv", &["rondel-core", "rondel-proto"]),
    ("rondel-dt", &["rondel-core", "rondel-proto"]),
];

/// What does I/O or runs tasks, and so is not for the protocol crates.
const RUNTIMES: [&str; 4] = ["tokio", "quinn", "axum", "hyper"];

/// Checks one `Cargo.toml`.
pub(super) fn check(path: &Path, text: &str) -> anyhow::Result<Vec<Finding>> {
    let manifest: Table = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
    let Some(name) =
        manifest.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str())
    else {
        return Ok(Vec::new());
    };
    let mut findings = Vec::new();
    let mut complain = |dependency: &str, why: String| {
        let line = text.lines().position(|line| line.starts_with(dependency)).map_or(1, |index| index + 1);
        findings.push(Finding { path: path.to_path_buf(), line, text: why });
    };
    if let Some((_, allowed)) = MAY_USE.iter().find(|(bound, _)| *bound == name) {
        for dependency in dependencies(&manifest).filter(|name| name.starts_with("rondel")) {
            if !allowed.contains(&dependency) {
                complain(dependency, format!("I2: {name} depends on {dependency}; it may use {allowed:?}"));
            }
        }
    }
    if matches!(name, "rondel-proto" | "rondel-macros") {
        for dependency in dependencies(&manifest).filter(|name| RUNTIMES.contains(name)) {
            complain(dependency, format!("I1: {name} depends on {dependency}; it does no I/O"));
        }
    }
    Ok(findings)
}

fn dependencies(manifest: &Table) -> impl Iterator<Item = &str> {
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = sections.into_iter().filter_map(|section| manifest.get(section)?.as_table());
    tables.flat_map(|table| table.keys().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(name: &str, rest: &str) -> Vec<Finding> {
        check(Path::new("x/Cargo.toml"), &format!("[package]\nname = \"{name}\"\n{rest}")).unwrap()
    }

    #[test]
    fn kv_that_uses_dt_is_found_in_any_section() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let found = complaints("rondel-kv", &format!("[{section}]\nrondel-dt.workspace = true\n"));
            assert_eq!(found.len(), 1, "{section}");
            assert_eq!(found[0].line, 4);
        }
    }

    #[test]
    fn core_that_uses_an_application_is_found() {
        assert_eq!(complaints("rondel-core", "[dependencies]\nrondel-kv.workspace = true\n").len(), 1);
    }

    #[test]
    fn proto_that_uses_a_runtime_is_found() {
        assert_eq!(complaints("rondel-proto", "[dependencies]\ntokio = \"1\"\n").len(), 1);
    }

    #[test]
    fn the_binary_may_use_everything() {
        let all =
            "[dependencies]\nrondel-kv = \"1\"\nrondel-dt = \"1\"\nrondel-core = \"1\"\ntokio = \"1\"\n";
        assert!(complaints("rondel", all).is_empty());
    }

    #[test]
    fn the_workspace_s_own_manifest_is_bound_to_nothing() {
        let text = "[workspace]\nmembers = []\n[workspace.dependencies]\nrondel-dt = \"1\"\n";
        assert!(check(Path::new("Cargo.toml"), text).unwrap().is_empty());
    }
}
