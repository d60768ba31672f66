//! Links between the documents: a relative link leads to a file that exists.

use super::Finding;
use std::path::Path;

/// Checks the inline links `[text](target)` of one Markdown file.
pub(super) fn check(path: &Path, text: &str, root: &Path) -> Vec<Finding> {
    let folder = root.join(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for target in targets(line).filter(|target| is_relative(target)) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.join(file).exists() {
                let text = format!("the link to `{target}` leads nowhere");
                findings.push(Finding { path: path.to_path_buf(), line: index + 1, text });
            }
        }
    }
    findings
}

fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_found_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("docs")).unwrap();
        std::fs::write(folder.path().join("docs/install.md"), "").unwrap();
        let text = "[a](docs/install.md#build)\n[b](docs/gone.md) [c](https://example.org/gone) [d](#here)\n";
        let found = check(Path::new("README.md"), text, folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "README.md:2: the link to `docs/gone.md` leads nowhere");
    }
}
