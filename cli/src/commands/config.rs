//! `rondel config`: check a configuration, show what it amounts to, describe the keys.

use crate::{
    config::{self, Config, Flags, KEYS, Key, Kind, Layers, Place},
    failure::{Advise, failure},
    output::{Output, Report, Table},
};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::io::{self, Write};

/// What to do with the configuration.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Tell every problem of the file, the environment and the flags
    Check(Flags),
    /// Show every key's value and where it comes from
    Show(Flags),
    /// Tell what keys there are, their kinds, defaults and meaning
    Describe(Describe),
}

/// What to describe.
#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// A key or a section; everything if none is given
    key: Option<String>,
}

/// Runs the command.
pub(crate) fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Check(flags) => check(&flags, output),
        Command::Show(flags) => show(&flags, output),
        Command::Describe(options) => describe(&options, output),
    }
}

fn check(flags: &Flags, output: Output) -> anyhow::Result<()> {
    Config::from_layers(config::read(flags)?)
        .advise(|| "correct these places; `rondel config describe` tells what each key takes".into())?;
    Ok(output.report(&Checked { ok: true })?)
}

fn show(flags: &Flags, output: Output) -> anyhow::Result<()> {
    let layers = config::read(flags)?;
    Ok(output.report(&Shown { keys: KEYS.iter().map(|key| shown(key, &layers)).collect() })?)
}

fn shown(key: &Key, layers: &Layers) -> ShownKey {
    let (value, place) = match layers.get(key.name) {
        Some((_, place)) if key.kind == Kind::Secret => (Some("(secret)".into()), place.clone()),
        Some((value, place)) => (Some(value.to_string()), place.clone()),
        None => (None, Place::Default),
    };
    ShownKey { key: key.name, value, from: place }
}

fn describe(options: &Describe, output: Output) -> anyhow::Result<()> {
    let wanted = options.key.as_deref().unwrap_or_default();
    let matches = |key: &&Key| {
        wanted.is_empty()
            || key.name == wanted
            || key.name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
    };
    let keys = KEYS.iter().filter(matches).map(Described::new).collect::<Vec<_>>();
    if keys.is_empty() {
        return Err(failure(
            format!("there is no key or section `{wanted}`"),
            "run `rondel config describe` for all of them",
        ));
    }
    Ok(output.report(&Description { keys })?)
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
}

impl Report for Checked {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "the configuration is right")
    }
}

#[derive(Serialize)]
struct Shown {
    keys: Vec<ShownKey>,
}

#[derive(Serialize)]
struct ShownKey {
    key: &'static str,
    value: Option<String>,
    from: Place,
}

impl Report for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(["KEY", "VALUE", "FROM"]);
        for key in &self.keys {
            let value = key.value.clone().unwrap_or_else(|| "-".into());
            table.row([key.key.into(), value, key.from.to_string()]);
        }
        table.write(out)
    }
}

#[derive(Serialize)]
struct Description {
    keys: Vec<Described>,
}

#[derive(Serialize)]
struct Described {
    key: &'static str,
    kind: String,
    default: Option<&'static str>,
    variable: String,
    about: &'static str,
}

impl Described {
    fn new(key: &Key) -> Self {
        Self {
            key: key.name,
            kind: key.kind.to_string(),
            default: (!key.default.is_empty()).then_some(key.default),
            variable: key.variable(),
            about: key.about,
        }
    }
}

impl Report for Description {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut section = "";
        for key in &self.keys {
            let (of, name) = key.key.split_once('.').unwrap_or(("", key.key));
            if of != section {
                section = of;
                writeln!(out, "[{section}]")?;
            }
            let default = key.default.map_or_else(|| "none".into(), |default| format!("`{default}`"));
            writeln!(out, "  {name}: {}; default {default}; ${}", key.kind, key.variable)?;
            writeln!(out, "      {}", key.about)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn an_unknown_section_is_refused() {
        let options = Describe { key: Some("lisen".into()) };
        assert!(describe(&options, Output::new(Format::Text)).unwrap_err().to_string().contains("`lisen`"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let mut layers = Layers::defaults();
        layers.assignment("cluster.join=hunter2");
        let key = KEYS.iter().find(|key| key.name == "cluster.join").unwrap();
        assert_eq!(shown(key, &layers).value.as_deref(), Some("(secret)"));
    }

    #[test]
    fn the_description_names_every_key_under_its_section() {
        let mut out = Vec::new();
        Description { keys: KEYS.iter().map(Described::new).collect() }.text(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("[listen]").count(), 1);
        assert!(
            text.contains("  admin: address:port; default `127.0.0.1:8093`; $RONDEL_LISTEN_ADMIN"),
            "{text}"
        );
    }
}
