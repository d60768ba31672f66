//! How `rondel dev kill|pause|resume|stop|start` reaches the `rondel dev` that runs: one JSON request over a loopback
//! port, named with a secret in `DIR/control.json`, which only the user who runs the cluster can read.

use super::supervisor::Supervisor;
use crate::{admin_client, failure, files::write_private, output::message};
use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::post,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::TcpListener;

/// The one resource there.
const PATH: &str = "/v1/dev";

/// What to do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    /// End it at once (SIGKILL)
    Kill,
    /// Freeze it (SIGSTOP)
    Pause,
    /// Let it go on (SIGCONT)
    Resume,
    /// End it gracefully (SIGTERM)
    Stop,
    /// Start it again with the same data and ports
    Start,
}

impl Verb {
    /// What has been done, said of a node.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Kill => "is killed",
            Self::Pause => "is paused",
            Self::Resume => "goes on",
            Self::Stop => "has stopped",
            Self::Start => "serves again",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Command {
    verb: Verb,
    node: String,
}

/// What has been done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    /// Its name.
    pub(super) node: String,
    /// Its process now, if it runs.
    pub(super) pid: Option<u32>,
}

/// Why it has not been done.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    message: String,
    advice: String,
}

/// Where the supervisor listens.
#[derive(Debug, Serialize, Deserialize)]
struct Door {
    address: String,
    secret: String,
}

/// The open door; its file goes when it is dropped.
pub(super) struct Control {
    listener: TcpListener,
    secret: String,
    file: PathBuf,
}

impl Control {
    /// Listens, and says where in `dir`.
    pub(super) async fn open(dir: &Path, secret: u128) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on 127.0.0.1")?;
        let secret = format!("{secret:032x}");
        let door = Door { address: listener.local_addr()?.to_string(), secret: secret.clone() };
        let file = door_file(dir);
        write_private(&file, &serde_json::to_vec(&door)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { listener, secret, file })
    }

    /// Serves commands until it is dropped.
    pub(super) async fn serve(self, supervisor: Arc<Supervisor>) -> io::Result<()> {
        let Self { listener, secret, file } = self;
        let _withdrawn = RemoveOnDrop(file);
        let state = (supervisor, Arc::<str>::from(format!("Bearer {secret}")));
        let app = Router::new().route(PATH, post(obey)).with_state(state);
        axum::serve(listener, app).await
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // If it stays, the next command finds nobody there and says so.
        let _ = fs::remove_file(&self.0);
    }
}

async fn obey(
    State((supervisor, expected)): State<(Arc<Supervisor>, Arc<str>)>,
    headers: HeaderMap,
    Json(command): Json<Command>,
) -> Result<Json<Done>, (StatusCode, Json<Refused>)> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given != Some(&*expected) {
        let message = "the secret of control.json is needed".to_owned();
        return Err((
            StatusCode::FORBIDDEN,
            Json(Refused { message, advice: "use `rondel dev`".to_owned() }),
        ));
    }
    let name = command.node.as_str();
    let done = match command.verb {
        Verb::Kill => supervisor.kill(name).await,
        Verb::Pause => supervisor.pause(name),
        Verb::Resume => supervisor.resume(name),
        Verb::Stop => supervisor.stop(name).await,
        Verb::Start => supervisor.start(name).await,
    };
    match done {
        Ok(()) => {
            let node = supervisor.cluster().nodes.into_iter().find(|node| node.name == name);
            Ok(Json(Done { node: command.node, pid: node.and_then(|node| node.pid) }))
        }
        Err(error) => {
            let advice = failure::advice(&error).unwrap_or_default().to_owned();
            Err((StatusCode::CONFLICT, Json(Refused { message: message(&error), advice })))
        }
    }
}

/// Tells the supervisor of the cluster in `dir` what to do.
///
/// # Errors
/// None runs there, or it says why not.
pub(super) async fn command(dir: &Path, verb: Verb, node: &str) -> anyhow::Result<Done> {
    let none = || {
        failure::failure(
            format!("no `rondel dev` runs on {}", dir.display()),
            format!("start it with `rondel dev --dir {}`, or give its folder with --dir", dir.display()),
        )
    };
    let Ok(bytes) = fs::read(door_file(dir)) else { return Err(none()) };
    let door = serde_json::from_slice::<Door>(&bytes).map_err(|_| none())?;
    if tokio::net::TcpStream::connect(&door.address).await.is_err() {
        return Err(none());
    }
    let command = Command { verb, node: node.to_owned() };
    let answer = admin_client::post_json(&door.address, PATH, &door.secret, &command).await?;
    if answer.status == StatusCode::OK {
        return answer.json(&door.address, PATH);
    }
    let refused = answer.json::<Refused>(&door.address, PATH)?;
    Err(failure::failure(refused.message, refused.advice))
}

fn door_file(dir: &Path) -> PathBuf {
    dir.join("control.json")
}
