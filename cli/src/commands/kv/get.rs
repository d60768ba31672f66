//! `rondel kv get`: one object. A single value is written as it is; siblings are written one by one, set apart, with the
//! context that replaces them all.

use super::{Address, Connection, Servers, once_each, record::text_or_base64};
use crate::{
    failure::failure,
    output::{Output, Report},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use rondel_proto::riak::{
    QuorumArg,
    messages::{RpbContent, RpbGetReq, RpbGetResp},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

/// What to read.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    address: Address,
    /// Replicas that must answer: a number, one, quorum, all
    #[arg(long)]
    r: Option<QuorumArg>,
    /// Owners among them that must answer
    #[arg(long)]
    pr: Option<QuorumArg>,
    /// Write the value to a file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// Reads and shows the object; that there is none is an error.
pub(super) async fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let hosts = options.connection.hosts.resolve()?;
    let mut servers = Servers::new(&hosts, 0, options.connection.timeout());
    let request = RpbGetReq {
        bucket: options.address.bucket(),
        key: options.address.key(),
        r#type: options.address.bucket_type(),
        r: options.r.map(QuorumArg::to_wire),
        pr: options.pr.map(QuorumArg::to_wire),
        timeout: options.connection.timeout_ms(),
        ..RpbGetReq::default()
    };
    let answer = servers.call(once_each(&hosts), async |client, _| client.get(&request).await).await?;
    if answer.content.is_empty() {
        let advice = "check bucket, key and type; `rondel kv list BUCKET` lists the keys";
        return Err(failure(format!("not found: {}", options.address.shown()), advice));
    }
    let object = Object::new(&options.address, &answer);
    let Some(path) = &options.output else { return Ok(output.report(&object)?) };
    match &object.contents[..] {
        [only] => {
            fs::write(path, &only.value).map_err(|error| {
                failure(format!("cannot write {}: {error}", path.display()), "choose another --output")
            })?;
            output.note(format!("wrote {} bytes to {}", only.value.len(), path.display()));
            Ok(())
        }
        several => Err(failure(
            format!("{} has {} siblings, and a file holds one value", options.address.shown(), several.len()),
            "read them without --output, and write one value with the --context shown there",
        )),
    }
}

/// An object as it is shown.
#[derive(Serialize)]
struct Object {
    bucket: String,
    key: String,
    context: Option<String>,
    /// How many siblings are stored: more than are shown if some are equal.
    siblings: usize,
    values: Vec<Sibling>,
    #[serde(skip)]
    contents: Vec<RpbContent>,
}

#[derive(Serialize)]
struct Sibling {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    content_type: Option<String>,
    /// Seconds since 1970.
    last_modified: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl Object {
    fn new(address: &Address, answer: &RpbGetResp) -> Self {
        let contents = distinct(&answer.content);
        Self {
            bucket: address.bucket.clone(),
            key: address.key.clone(),
            context: answer.vclock.as_ref().map(|bytes| BASE64.encode(bytes)),
            siblings: answer.content.len(),
            values: contents.iter().map(Sibling::new).collect(),
            contents,
        }
    }
}

impl Sibling {
    fn new(content: &RpbContent) -> Self {
        let (value, value_base64) = text_or_base64(&content.value);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let pairs = content.usermeta.iter();
        Self {
            value,
            value_base64,
            content_type: content.content_type.as_deref().map(text),
            last_modified: content.last_mod,
            metadata: pairs
                .map(|pair| (text(&pair.key), text(pair.value.as_deref().unwrap_or_default())))
                .collect(),
        }
    }
}

/// The siblings that say different things. A write that was repeated after its answer got lost leaves equal ones.
pub(super) fn distinct(contents: &[RpbContent]) -> Vec<RpbContent> {
    let said = |content: &RpbContent| RpbContent {
        last_mod: None,
        last_mod_usecs: None,
        vtag: None,
        ..content.clone()
    };
    let mut kept: Vec<RpbContent> = Vec::new();
    for content in contents {
        if !kept.iter().any(|other| said(other) == said(content)) {
            kept.push(content.clone());
        }
    }
    kept
}

impl Report for Object {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if let [only] = &self.contents[..] {
            out.write_all(&only.value)?;
            return end_line(&only.value, io::stdout().is_terminal(), out);
        }
        writeln!(out, "{} siblings: writes that had not seen each other", self.contents.len())?;
        for (index, content) in self.contents.iter().enumerate() {
            let content_type = content.content_type.as_deref().unwrap_or(b"no content type");
            let content_type = String::from_utf8_lossy(content_type);
            writeln!(
                out,
                "--- {} of {}: {content_type}, {} bytes",
                index + 1,
                self.contents.len(),
                content.value.len()
            )?;
            out.write_all(&content.value)?;
            end_line(&content.value, true, out)?;
        }
        let context = self.context.as_deref().unwrap_or("none");
        writeln!(
            out,
            "---\nto replace them all: rondel kv put {} {} VALUE --context {context}",
            self.bucket, self.key
        )
    }
}

fn end_line(value: &[u8], wanted: bool, out: &mut dyn Write) -> io::Result<()> {
    if wanted && !value.ends_with(b"\n") { writeln!(out) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn object(values: &[&'static str]) -> Object {
        let content = values.iter().enumerate().map(|(index, value)| RpbContent {
            value: Bytes::from_static(value.as_bytes()),
            content_type: Some("text/plain".into()),
            vtag: Some(Bytes::from(index.to_string())),
            ..RpbContent::default()
        });
        let answer = RpbGetResp { content: content.collect(), vclock: Some("ctx".into()), unchanged: None };
        Object::new(&Address { bucket: "b".into(), key: "k".into(), bucket_type: None }, &answer)
    }

    fn text(object: &Object) -> String {
        let mut out = Vec::new();
        object.text(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn siblings_are_set_apart_with_the_context_that_replaces_them() {
        let text = text(&object(&["one", "two\n"]));
        assert_eq!(
            text,
            "2 siblings: writes that had not seen each other\n--- 1 of 2: text/plain, 3 bytes\none\n--- 2 of 2: text/plain, \
             4 bytes\ntwo\n---\nto replace them all: rondel kv put b k VALUE --context Y3R4\n"
        );
    }

    #[test]
    fn equal_siblings_are_shown_once_and_counted() {
        let object = object(&["one", "one"]);
        assert_eq!((object.values.len(), object.siblings), (1, 2));
    }

    #[test]
    fn a_value_that_is_no_text_is_base64_in_json() {
        let sibling =
            Sibling::new(&RpbContent { value: Bytes::from_static(b"\xff"), ..RpbContent::default() });
        assert_eq!(sibling.value_base64.as_deref(), Some("/w=="));
        assert!(sibling.value.is_none());
    }
}
