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
use std::io::{self, Write};

/// Whom to ask for what.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only tell whether the node serves, and fail if it does not
    #[arg(long)]
    health: bool,
    #[command(flatten)]
    hosts: AdminHosts,
}

/// Asks one node after another until one answers.
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
        let (host, answer) = first(&hosts, "/v1/status").await?;
        Ok(output.report(&answer.json::<Status>(&host, "/v1/status")?)?)
    })
}

async fn first(hosts: &[String], path: &str) -> anyhow::Result<(String, admin_client::Answer)> {
    let mut problems = Vec::new();
    for host in hosts {
        match admin_client::get(host, path).await {
            Ok(answer) => return Ok((host.clone(), answer)),
            Err(error) => problems.push(message(&error)),
        }
    }
    Err(failure(
        format!("no node answers: {}", problems.join("; ")),
        "start one with `rondel start` or `rondel dev`, or name an admin listener with --admin",
    ))
}

impl Report for Health {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.serving { writeln!(out, "serving") } else { Ok(()) }
    }
}
