//! Checks what the compiler and clippy cannot: the architecture's invariants and the house rules.
//!
//! Each rule is a function from parsed sources to findings, so that a fixture can make it fail. The numbers I1, I2
//! and I6 are those of ARCHITECTURE.md.

mod links;
mod manifests;
mod metrics;
mod rules;
mod source;

use crate::cargo::root;
use anyhow::{Context, bail};
use source::Source;
use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

/// A rule broken at a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    line: usize,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 4] = [".git", "target", "rondel-dev", "corpus"];

/// Checks the whole workspace; any finding is an error.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = root()?;
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    let mut checked = 0;
    for path in files(&root)? {
        let name = path.strip_prefix(&root).unwrap_or(&path).to_path_buf();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => sources.push(Source::parse(name, &read(&path)?)?),
            Some("md") => findings.extend(links::check(&name, &read(&path)?, &root)),
            Some("toml") if path.ends_with("Cargo.toml") => {
                findings.extend(manifests::check(&name, &read(&path)?)?)
            }
            _ => continue,
        }
        checked += 1;
    }
    let of_tests = sources.iter().flat_map(Source::test_modules).collect::<BTreeSet<_>>();
    for source in &mut sources {
        if of_tests.contains(&source.path) {
            source.set_test();
        }
        findings.extend(rules::check(source));
    }
    findings.extend(metrics::check(&sources, &read(&root.join(metrics::PAGE))?));
    findings.extend(rules::missing_paths(&root));
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {checked} files, nothing to complain about"),
        found => bail!("tidy found {found} broken rules"),
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                found.extend(files(&entry.path())?);
            }
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_order_and_build_products_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["target/a.rs", "kv/src/b.rs", "core/src/c.rs"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = files(folder.path()).unwrap();
        let names = found.iter().map(|path| path.strip_prefix(folder.path()).unwrap()).collect::<Vec<_>>();
        assert_eq!(names, [Path::new("core/src/c.rs"), Path::new("kv/src/b.rs")]);
    }

    #[test]
    fn a_finding_reads_as_path_line_and_text() {
        let finding = Finding { path: "core/src/lib.rs".into(), line: 7, text: "no".into() };
        assert_eq!(finding.to_string(), "core/src/lib.rs:7: no");
    }
}
