//! The rules for one Rust file. Comments never break a rule; test code breaks only those of form.

use super::{
    Finding,
    source::{Source, Word, lines_with},
};
use std::path::{Path, PathBuf};

/// Lines before the tests that a file may have.
const LINES_MAX: usize = 700;

/// Where I1 holds: time and randomness are arguments, the rest of the world does not exist.
const PURE: [&str; 9] = [
    "core/src/ring",
    "core/src/causal",
    "core/src/quorum",
    "core/src/sequence",
    "core/src/liveness",
    "core/src/membership/gossip.rs",
    "core/src/membership/gossip",
    "proto/src",
    "proto/macros/src",
];

/// What a pure module does not name.
const IMPURE: [&[&str]; 13] = [
    &["tokio"],
    &["quinn"],
    &["fastrand"],
    &["getrandom"],
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &["std", "::", "thread"],
    &["std", "::", "fs"],
    &["std", "::", "env"],
    &["File", "::", "open"],
    &["UdpSocket"],
    &["TcpStream"],
    &["async"],
];

/// What core knows nothing of: the nouns of its applications. (A name breaks I2 if it contains one.)
const APPLICATION_NOUNS: [&str; 6] = ["bucket", "crdt", "riak", "vclock", "rondel_kv", "rondel_dt"];

/// What only the binary and the development tasks may do.
const PROCESS_WIDE: [&[&str]; 12] = [
    &["println", "!"],
    &["print", "!"],
    &["eprintln", "!"],
    &["eprint", "!"],
    &["dbg", "!"],
    &["env", "::", "var"],
    &["env", "::", "vars"],
    &["env", "::", "var_os"],
    &["env", "::", "args"],
    &["env", "::", "home_dir"],
    &["process", "::", "exit"],
    &["process", "::", "abort"],
];

/// What is not written yet.
const UNFINISHED: [&[&str]; 2] = [&["todo", "!"], &["unimplemented", "!"]];

/// Every rule, for one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    if source.is_generated {
        return Vec::new();
    }
    let rules = [
        pure_modules,
        core_knows_no_application,
        only_the_binary_is_a_process,
        finished,
        no_allow,
        length,
        docs,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

/// Paths that a rule names and that are not there: a moved module must not slip out of its rule.
pub(super) fn missing_paths(root: &Path) -> Vec<Finding> {
    PURE.iter()
        .filter(|path| !root.join(path).exists())
        .map(|path| Finding {
            path: PathBuf::from("xtask/src/tidy/rules.rs"),
            line: 1,
            text: format!("the list of pure modules names {path}, which does not exist"),
        })
        .collect()
}

fn pure_modules(source: &Source) -> Vec<Finding> {
    if !PURE.iter().any(|path| source.is_within(path)) {
        return Vec::new();
    }
    named(source, &IMPURE, |word| {
        format!("I1: a pure module names `{word}`; take what it gives as an argument")
    })
}

fn core_knows_no_application(source: &Source) -> Vec<Finding> {
    if !source.is_within("core/src") {
        return Vec::new();
    }
    let breaks = |word: &&Word| {
        let name = word.text.to_lowercase();
        word.is_name && APPLICATION_NOUNS.iter().any(|noun| name.contains(noun))
    };
    let names = source.words.iter().filter(breaks);
    names
        .map(|word| finding(source, word.line, format!("I2: core names `{}`, a noun of kv or dt", word.text)))
        .collect()
}

fn only_the_binary_is_a_process(source: &Source) -> Vec<Finding> {
    let libraries = ["core/src", "kv/src", "dt/src", "proto/src", "proto/macros/src"];
    // The simulator is run by tests, and tells their reader the seed.
    if !libraries.iter().any(|path| source.is_within(path)) || source.is_within("core/src/testing") {
        return Vec::new();
    }
    named(source, &PROCESS_WIDE, |word| format!("I6: a library uses `{word}`; only the binary may"))
}

fn finished(source: &Source) -> Vec<Finding> {
    named(source, &UNFINISHED, |word| format!("`{word}` is not finished code"))
}

fn no_allow(source: &Source) -> Vec<Finding> {
    let outer: &[&str] = &["#", "[", "allow"];
    let inner: &[&str] = &["#", "!", "[", "allow"];
    let lines = [outer, inner].into_iter().flat_map(|words| lines_with(&source.all_words, words));
    lines
        .map(|line| finding(source, line, "write `#[expect(…, reason = \"…\")]`, not `allow`".into()))
        .collect()
}

fn length(source: &Source) -> Vec<Finding> {
    let lines = source.lines_before_tests;
    if lines <= LINES_MAX {
        return Vec::new();
    }
    let text =
        format!("{lines} lines before the tests; more than {LINES_MAX} is more than one file's subject");
    vec![finding(source, LINES_MAX + 1, text)]
}

fn docs(source: &Source) -> Vec<Finding> {
    if source.has_module_docs || source.lines == 0 || source.is_test {
        return Vec::new();
    }
    vec![finding(source, 1, "begin with `//!`: what the file answers for".into())]
}

fn named(source: &Source, patterns: &[&[&str]], text: impl Fn(&str) -> String) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pattern in patterns {
        let word = pattern.concat();
        findings.extend(source.lines_with(pattern).map(|line| finding(source, line, text(&word))));
    }
    findings
}

fn finding(source: &Source, line: usize, text: String) -> Finding {
    Finding { path: source.path.clone(), line, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path.into(), &format!("//! Docs.\n{text}")).unwrap();
        check(&source).into_iter().map(|finding| format!("{}: {}", finding.line, finding.text)).collect()
    }

    #[test]
    fn a_pure_module_that_reads_the_clock_is_found() {
        let found = complaints("core/src/ring/claim.rs", "fn f() {\n    std::time::Instant::now();\n}\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("3: I1") && found[0].contains("`Instant::now`"), "{found:?}");
    }

    #[test]
    fn a_pure_module_that_uses_a_runtime_is_found() {
        for text in ["use tokio::sync::mpsc;\n", "use quinn::Endpoint;\n", "use std::thread::sleep;\n"] {
            assert_eq!(complaints("core/src/liveness/mod.rs", text).len(), 1, "{text}");
        }
        assert_eq!(complaints("core/src/quorum/tally.rs", "fn f() -> u64 { fastrand::u64(..) }\n").len(), 1);
    }

    #[test]
    fn a_driver_may_use_a_runtime_and_a_pure_module_may_take_time_as_an_argument() {
        assert!(
            complaints("core/src/transport/quic.rs", "use quinn::Endpoint;\nuse tokio::sync::mpsc;\n")
                .is_empty()
        );
        assert!(
            complaints("core/src/ring/mod.rs", "use std::time::Instant;\nfn f(now: Instant) {}\n").is_empty()
        );
    }

    #[test]
    fn core_that_names_an_application_s_noun_is_found() {
        for text in
            ["struct BucketType;\n", "fn f(vclock: u8) {}\n", "use rondel_kv::Client;\n", "mod crdt;\n"]
        {
            assert_eq!(complaints("core/src/table/mod.rs", text).len(), 1, "{text}");
        }
        assert!(complaints("core/src/table/mod.rs", "// As Riak's bucket does.\nstruct Table;\n").is_empty());
        assert!(complaints("kv/src/bucket.rs", "struct Bucket;\n").is_empty());
    }

    #[test]
    fn a_library_that_prints_reads_the_environment_or_exits_is_found() {
        for call in ["println!(\"a\")", "std::env::var(\"A\")", "std::process::exit(1)", "dbg!(1)"] {
            let found = complaints("kv/src/client.rs", &format!("fn f() {{ {call}; }}\n"));
            assert_eq!(found.len(), 1, "{call}: {found:?}");
            assert!(found[0].contains("I6"));
            assert!(complaints("cli/src/output.rs", &format!("fn f() {{ {call}; }}\n")).is_empty());
        }
    }

    #[test]
    fn cores_own_env_is_not_the_process_s_environment() {
        assert!(complaints("core/src/node.rs", "fn f(env: crate::env::Env) { env.now(); }\n").is_empty());
    }

    #[test]
    fn unfinished_code_is_found_everywhere_but_in_tests() {
        assert_eq!(complaints("dt/src/map.rs", "fn f() { todo!(\"later\") }\n").len(), 1);
        assert!(complaints("dt/src/map.rs", "#[cfg(test)]\nmod tests { fn f() { todo!() } }\n").is_empty());
    }

    #[test]
    fn allow_is_found_even_in_tests_and_expect_is_not() {
        assert_eq!(complaints("dt/src/map.rs", "#[allow(dead_code)]\nfn f() {}\n").len(), 1);
        assert_eq!(complaints("dt/src/map.rs", "#![allow(dead_code)]\n").len(), 1);
        assert_eq!(
            complaints("dt/src/map.rs", "#[cfg(test)]\nmod tests { #[allow(a)] fn f() {} }\n").len(),
            1
        );
        assert!(complaints("dt/src/map.rs", "#[expect(dead_code, reason = \"a\")]\nfn f() {}\n").is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_before_its_tests_is_found() {
        let long = "const A: u8 = 1;\n".repeat(LINES_MAX);
        assert_eq!(complaints("kv/src/get.rs", &long).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(complaints("kv/src/get.rs", &tests).is_empty());
    }

    #[test]
    fn a_file_without_module_docs_is_found() {
        let source = Source::parse("kv/src/get.rs".into(), "fn f() {}\n").unwrap();
        assert_eq!(check(&source).len(), 1);
    }

    #[test]
    fn a_file_of_tests_is_held_to_the_rules_of_form_alone() {
        let path = "core/src/ring/tests.rs";
        let source = |text| Source::parse(path.into(), text).unwrap();
        assert!(check(&source("use tokio::test;\nfn bucket() { todo!() }\n")).is_empty());
        assert_eq!(check(&source("#[allow(dead_code)]\nfn f() {}\n")).len(), 1);
    }

    #[test]
    fn generated_code_is_left_alone() {
        let text = "// @generated by prost-build\n#[allow(a)]\nfn f() { todo!() }\n";
        assert!(check(&Source::parse("proto/src/riak/messages.rs".into(), text).unwrap()).is_empty());
    }

    #[test]
    fn a_rule_s_path_that_is_gone_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(missing_paths(folder.path()).len(), PURE.len());
    }
}
