//! `rondel status`: the cluster as one of its nodes sees it.

use crate::{
    admin_api::{Health, Status},
    admin_client,
    failure::failure,
    output::{Output, Report, message},
    rt,
    targets::AdminHosts,
};
use clap::Args;
use futures_util::future::join_all;
use std::{
    io::{self, Write},
    time::Duration,
};

/// Where a node tells it.
const PATH: &str = "/v1/status";
/// How long one node may take to tell its status: a frozen one must not hold up the others.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

/// Whom to ask for what.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only tell whether the node serves, and fail if it does not
    #[arg(long)]
    health: bool,
    #[command(flatten)]
    hosts: AdminHosts,
}

/// Asks, and shows the answer.
pub(crate) fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let hosts = options.hosts.resolve()?;
    rt::single_threaded()?.block_on(async {
        if options.health {
            let (host, answer) = first(&hosts, "/health").await?;
            let health = answer.json::<Health>(&host, "/health")?;
            output.report(&health)?;
            return match health.reason {
                Some(reason) if !health.serving => {
                    Err(failure(format!("{host} does not serve: {reason}"), "see its log"))
                }
                _ => Ok(()),
            };
        }
        let mut status = status(&hosts).await?;
        options.hosts.stopped()?.iter().for_each(|name| status.does_not_run(name));
        Ok(output.report(&status)?)
    })
}

/// What the first node that serves says, and of each node that was asked what it says of itself: gossip brings that to
/// the others only within a second or two, and "no hints" must be true when it is said.
async fn status(hosts: &[String]) -> anyhow::Result<Status> {
    let answers = join_all(hosts.iter().map(|host| async move {
        let answer = admin_client::get_within(host, PATH, STATUS_WITHIN).await?;
        match answer.refusal() {
            Some(refusal) => Err(anyhow::anyhow!("{host}: {refusal}")),
            None => answer.json::<Status>(host, PATH),
        }
    }));
    let (mut statuses, mut problems) = (Vec::new(), Vec::new());
    for answer in answers.await {
        match answer {
            Ok(status) => statuses.push(status),
            Err(error) => problems.push(error),
        }
    }
    let serving = statuses.iter().position(|status| status.node.serving).unwrap_or(0);
    if statuses.is_empty() {
        return Err(nobody(&problems));
    }
    let mut base = statuses.swap_remove(serving);
    for other in &statuses {
        base.take_in(other);
    }
    base.unanswered = problems.iter().map(message).collect();
    Ok(base)
}

async fn first(hosts: &[String], path: &str) -> anyhow::Result<(String, admin_client::Answer)> {
    let mut problems = Vec::new();
    for host in hosts {
        match admin_client::get(host, path).await {
            Ok(answer) => return Ok((host.clone(), answer)),
            Err(error) => problems.push(error),
        }
    }
    Err(nobody(&problems))
}

fn nobody(problems: &[anyhow::Error]) -> anyhow::Error {
    failure(
        format!("no node answers: {}", problems.iter().map(message).collect::<Vec<_>>().join("; ")),
        "start one with `rondel start` or `rondel dev`, or name an admin listener with --admin",
    )
}

impl Report for Health {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.serving {
            writeln!(out, "serving")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
    }
}
