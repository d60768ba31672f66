//! A Rust file as the rules see it: its words with their lines, without comments, and its tests apart.

use anyhow::Context;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use std::path::{Path, PathBuf};
use syn::{Attribute, Item, Meta};

/// One token: an identifier, a piece of punctuation, a literal, or a bracket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) is_name: bool,
}

/// A parsed file.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Every token outside of comments and of items that exist only in tests.
    pub(super) words: Vec<Word>,
    /// Every token, that of the tests included.
    pub(super) all_words: Vec<Word>,
    /// Whether the file as a whole exists only in tests.
    pub(super) is_test: bool,
    test_module_names: Vec<String>,
    /// Whether the file begins with module documentation.
    pub(super) has_module_docs: bool,
    /// Whether a tool wrote the file.
    pub(super) is_generated: bool,
    /// Lines in all.
    pub(super) lines: usize,
    /// Lines before the first item that exists only in tests.
    pub(super) lines_before_tests: usize,
}

impl Source {
    /// Parses the file that `path`, relative to the workspace, holds.
    pub(super) fn parse(path: PathBuf, text: &str) -> anyhow::Result<Self> {
        let file = syn::parse_file(text).with_context(|| format!("{} does not parse", path.display()))?;
        let lines = text.lines().count();
        let tests_begin = file.items.iter().filter(|item| is_test_only(item)).filter_map(first_line).min();
        let is_test = path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        let production = file.items.iter().filter(|item| !is_test && !is_test_only(item));
        let production = production.map(ToTokens::to_token_stream);
        Ok(Self {
            words: file
                .attrs
                .iter()
                .map(ToTokens::to_token_stream)
                .chain(production)
                .flat_map(words)
                .collect(),
            all_words: words(file.to_token_stream()),
            is_test,
            test_module_names: file.items.iter().filter_map(test_module_name).collect(),
            has_module_docs: file.attrs.iter().any(is_documentation),
            is_generated: text.starts_with("// @generated"),
            lines,
            lines_before_tests: tests_begin.map_or(if is_test { 0 } else { lines }, |line| line - 1),
            path,
        })
    }

    /// The files of the modules that this one declares for tests alone.
    pub(super) fn test_modules(&self) -> impl Iterator<Item = PathBuf> {
        let folder = self.path.parent().map(Path::to_path_buf).unwrap_or_default();
        let folder = match self.path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") | None => folder,
            Some(stem) => folder.join(stem),
        };
        let files = |name: &String| [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
        self.test_module_names.iter().flat_map(files).collect::<Vec<_>>().into_iter()
    }

    /// Takes the whole file for one of tests.
    pub(super) fn set_test(&mut self) {
        self.is_test = true;
        self.words.clear();
        self.lines_before_tests = 0;
    }

    /// Where these words follow each other; `::` counts as one word.
    pub(super) fn lines_with(&self, words: &[&str]) -> impl Iterator<Item = usize> {
        lines_with(&self.words, words)
    }

    /// Whether the file lies in this folder, or is this file.
    pub(super) fn is_within(&self, path: &str) -> bool {
        self.path.starts_with(Path::new(path))
    }
}

/// Where `wanted` follow each other in `words`.
pub(super) fn lines_with(words: &[Word], wanted: &[&str]) -> impl Iterator<Item = usize> {
    words
        .windows(wanted.len())
        .filter(move |window| window.iter().zip(wanted).all(|(word, wanted)| word.text == *wanted))
        .map(|window| window[0].line)
}

fn words(stream: TokenStream) -> Vec<Word> {
    let mut found = Vec::new();
    collect(stream, &mut found);
    join_path_separators(found)
}

fn collect(stream: TokenStream, found: &mut Vec<Word>) {
    for token in stream {
        let line = token.span().start().line;
        let mut push = |text: String, is_name| found.push(Word { text, line, is_name });
        match token {
            TokenTree::Ident(name) => push(name.to_string(), true),
            TokenTree::Punct(mark) => push(mark.as_char().to_string(), false),
            TokenTree::Literal(literal) => push(literal.to_string(), false),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.into(), false);
                let end = group.span_close().start().line;
                collect(group.stream(), found);
                found.push(Word { text: close.into(), line: end, is_name: false });
            }
        }
    }
}

fn join_path_separators(words: Vec<Word>) -> Vec<Word> {
    let mut joined: Vec<Word> = Vec::with_capacity(words.len());
    for word in words {
        match joined.last_mut() {
            Some(last) if last.text == ":" && word.text == ":" => last.text.push(':'),
            _ => joined.push(word),
        }
    }
    joined
}

fn is_documentation(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc") && matches!(attribute.meta, Meta::NameValue(_))
}

fn first_line(item: &Item) -> Option<usize> {
    item.to_token_stream().into_iter().next().map(|token| token.span().start().line)
}

fn test_module_name(item: &Item) -> Option<String> {
    match item {
        Item::Mod(module) if module.content.is_none() && is_test_only(item) => Some(module.ident.to_string()),
        _ => None,
    }
}

fn is_test_only(item: &Item) -> bool {
    let attributes = match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        Source::parse("core/src/x.rs".into(), text).unwrap()
    }

    #[test]
    fn words_keep_their_lines_and_comments_are_no_words() {
        let source = parse("// tokio\nfn a() {\n    std::thread::spawn(b); // tokio\n}\n");
        assert_eq!(source.lines_with(&["std", "::", "thread"]).collect::<Vec<_>>(), [3]);
        assert_eq!(source.lines_with(&["tokio"]).count(), 0);
    }

    #[test]
    fn items_that_exist_only_in_tests_are_apart() {
        let source = parse("//! Docs.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    use tokio::test;\n}\n");
        assert_eq!(source.lines_with(&["tokio"]).count(), 0);
        assert!(source.all_words.iter().any(|word| word.text == "tokio"));
        assert_eq!((source.lines, source.lines_before_tests), (7, 3));
    }

    #[test]
    fn the_files_of_test_modules_are_known() {
        let files = |path: &str| {
            let source = Source::parse(path.into(), "#[cfg(test)]\nmod model;\nmod other;\n").unwrap();
            source.test_modules().collect::<Vec<_>>()
        };
        assert_eq!(files("core/src/ring/mod.rs")[0], Path::new("core/src/ring/model.rs"));
        assert_eq!(files("core/src/ring.rs")[1], Path::new("core/src/ring/model/mod.rs"));
    }

    #[test]
    fn module_documentation_is_seen_and_a_file_attribute_is_not_it() {
        assert!(parse("//! Docs.\n").has_module_docs);
        assert!(!parse("#![forbid(unsafe_code)]\n/// Of the function.\nfn a() {}\n").has_module_docs);
    }

    #[test]
    fn a_file_that_does_not_parse_is_an_error_with_its_name() {
        let error = Source::parse("core/src/x.rs".into(), "fn fn").err().unwrap();
        assert!(error.to_string().contains("core/src/x.rs"));
    }
}
