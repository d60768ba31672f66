//! Reads the configuration in layers: defaults, then the file, then the environment, then flags. The last that sets
//! a key wins; every problem of every layer is collected, with its place, before anything is refused.

use super::{
    keys::{KEYS, Key, find, nearest},
    value::Value,
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, path::Path};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Where a value, or a problem, comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing set the key.
    Default,
    /// A line of the file.
    File {
        /// The file as the user named it.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl Place {
    fn line(&self) -> usize {
        if let Self::File { line, .. } = self { *line } else { 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File { path, line } => write!(out, "{path}:{line}"),
            Self::Variable(name) => write!(out, "${name}"),
            Self::Flag(name) => out.write_str(name),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) place: Place,
    /// What, and what to do.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.text)
    }
}

/// The value of every key that has one, and where it comes from.
#[derive(Debug)]
pub(crate) struct Layers {
    values: BTreeMap<&'static str, (Value, Place)>,
    problems: Vec<Problem>,
}

impl Layers {
    /// The defaults alone.
    pub(crate) fn defaults() -> Self {
        let mut layers = Self { values: BTreeMap::new(), problems: Vec::new() };
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            layers.set(key, key.default, Place::Default);
        }
        layers
    }

    /// Adds the file's text.
    pub(crate) fn file(&mut self, path: &Path, text: &str) {
        let path = path.display().to_string();
        let place = |offset: usize| Place::File { path: path.clone(), line: line_at(text, offset) };
        match DeTable::parse(text) {
            Ok(table) => {
                let before = self.problems.len();
                self.table("", table.get_ref(), &place);
                self.problems[before..].sort_by_key(|problem| problem.place.line());
            }
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                self.complain(place(offset), format!("not TOML: {}", error.message()));
            }
        }
    }

    /// Adds the environment variables that name a key.
    pub(crate) fn environment(&mut self, variable: impl Fn(&str) -> Option<String>) {
        for key in KEYS {
            let name = key.variable();
            if let Some(text) = variable(&name) {
                self.set(key, &text, Place::Variable(name));
            }
        }
    }

    /// Adds a flag that sets one key.
    pub(crate) fn flag(&mut self, flag: &str, name: &str, text: &str) {
        let place = Place::Flag(flag.into());
        match find(name) {
            Some(key) => self.set(key, text, place),
            None => self.complain(place, unknown(name)),
        }
    }

    /// Adds `KEY=VALUE` from the command line.
    pub(crate) fn assignment(&mut self, assignment: &str) {
        match assignment.split_once('=') {
            Some((name, text)) => self.flag("--set", name.trim(), text.trim()),
            None => {
                let text = format!("`{assignment}` is not an assignment; give KEY=VALUE");
                self.complain(Place::Flag("--set".into()), text);
            }
        }
    }

    /// The value of a key and where it comes from; none if it has no default and nothing set it.
    pub(crate) fn get(&self, name: &str) -> Option<&(Value, Place)> {
        self.values.get(name)
    }

    /// What is wrong so far.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Adds a problem that concerns the value of a key, at that value's place.
    pub(crate) fn complain_about(&mut self, name: &str, text: String) {
        let place = self.get(name).map_or(Place::Default, |(_, place)| place.clone());
        self.complain(place, format!("{name} {text}"));
    }

    fn complain(&mut self, place: Place, text: String) {
        self.problems.push(Problem { place, text });
    }

    fn set(&mut self, key: &'static Key, text: &str, place: Place) {
        if text.is_empty() && key.default.is_empty() {
            self.values.remove(key.name);
            return;
        }
        match key.kind.parse(text) {
            Ok(value) => {
                self.values.insert(key.name, (value, place));
            }
            Err(why) => self.complain(place, format!("{} {why}", key.name)),
        }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, place: &impl Fn(usize) -> Place) {
        for (word, value) in table {
            let name = if prefix.is_empty() {
                word.get_ref().to_string()
            } else {
                format!("{prefix}.{}", word.get_ref())
            };
            let here = place(word.span().start);
            match (find(&name), value.get_ref()) {
                (Some(key), _) => self.entry(key, value, here),
                (None, DeValue::Table(table)) if is_section(&name) => self.table(&name, table, place),
                (None, DeValue::Table(table)) if !table.is_empty() && prefix.is_empty() => {
                    self.table(&name, table, place);
                }
                (None, _) if is_section(&name) => {
                    self.complain(
                        here,
                        format!("`{name}` is a section; write `[{name}]` and its keys below it"),
                    );
                }
                (None, _) => self.complain(here, unknown(&name)),
            }
        }
    }

    fn entry(&mut self, key: &'static Key, value: &Spanned<DeValue<'_>>, place: Place) {
        match value.get_ref() {
            DeValue::String(text) if !key.kind.is_number() => self.set(key, text, place),
            DeValue::Integer(number) if key.kind.is_number() || key.kind.may_be_number() => {
                self.set(key, &number.to_string(), place)
            }
            other => {
                let wanted =
                    if key.kind.is_number() { "a number without quotes" } else { "a string in quotes" };
                let text =
                    format!("{} is a TOML {}; give {wanted} ({})", key.name, other.type_str(), key.kind);
                self.complain(place, text);
            }
        }
    }
}

fn unknown(name: &str) -> String {
    match nearest(name) {
        Some(key) => format!("unknown key `{name}`; did you mean `{}`?", key.name),
        None => format!("unknown key `{name}`; `rondel config describe` lists the known ones"),
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> Layers {
        let mut layers = Layers::defaults();
        layers.file(Path::new("r.toml"), text);
        layers
    }

    fn only_problem(layers: &Layers) -> String {
        assert_eq!(layers.problems().len(), 1, "{:?}", layers.problems());
        layers.problems()[0].to_string()
    }

    #[test]
    fn a_later_layer_wins_and_the_place_is_known() {
        let mut layers = with_file("[listen]\npb = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n");
        layers.environment(|name| (name == "RONDEL_LISTEN_ADMIN").then(|| "127.0.0.1:3".into()));
        layers.assignment("log.level=debug");
        let shown = |name| layers.get(name).map(|(value, place)| format!("{value} {place}")).unwrap();
        assert_eq!(shown("listen.pb"), "127.0.0.1:1 r.toml:2");
        assert_eq!(shown("listen.admin"), "127.0.0.1:3 $RONDEL_LISTEN_ADMIN");
        assert_eq!(shown("log.level"), "debug --set");
        assert_eq!(shown("log.format"), "text default");
        assert!(layers.problems().is_empty());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let layers = with_file("[node]\nname = \"a\"\n\n[listen]\nadminn = \"127.0.0.1:1\"\n");
        assert_eq!(
            only_problem(&layers),
            "r.toml:5: unknown key `listen.adminn`; did you mean `listen.admin`?"
        );
    }

    #[test]
    fn an_unknown_section_is_told_key_by_key() {
        let layers = with_file("[lisen]\nadmin = \"127.0.0.1:1\"\npb = \"127.0.0.1:1\"\n");
        let told = layers.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            told,
            [
                "r.toml:2: unknown key `lisen.admin`; did you mean `listen.admin`?",
                "r.toml:3: unknown key `lisen.pb`; did you mean `listen.pb`?"
            ]
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_says_which_is_right() {
        let layers = with_file("[cluster]\nreplicas = \"3\"\n");
        assert_eq!(
            only_problem(&layers),
            "r.toml:2: cluster.replicas is a TOML string; give a number without quotes (number from 1 to 7)"
        );
        assert!(only_problem(&with_file("[node]\nname = 3\n")).contains("a string in quotes"));
    }

    #[test]
    fn a_section_that_is_no_table_is_told() {
        assert!(only_problem(&with_file("listen = 3\n")).contains("write `[listen]`"));
    }

    #[test]
    fn a_value_out_of_range_is_told_with_its_place_and_the_old_one_stays() {
        let layers = with_file("[cluster]\n\npartitions = 48\n");
        assert!(only_problem(&layers).starts_with("r.toml:3: cluster.partitions is 48"));
        assert_eq!(layers.get("cluster.partitions").unwrap().0, Value::Number(64));
    }

    #[test]
    fn broken_toml_is_told_with_its_line() {
        let told = only_problem(&with_file("[node]\nname = \n"));
        assert!(told.starts_with("r.toml:2: not TOML: "), "{told}");
    }

    #[test]
    fn every_problem_is_collected() {
        let mut layers = with_file("[log]\nlevle = \"info\"\nformat = \"yaml\"\n");
        layers.assignment("nonsense");
        assert_eq!(layers.problems().len(), 3);
    }
}
