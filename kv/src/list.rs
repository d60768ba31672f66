//! Listing keys and buckets: a scan of every partition, each answered by one replica. Expensive: it reads every row
//! of the node's share, so it is for maintenance, not for requests of users. Deleted and expired objects are left out.

use crate::{
    bucket::{Bucket, parts, type_prefix},
    client::Client,
    command::List,
    error::ListError,
};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use rondel_core::request::Rows;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The time that a listing may take if it is not told otherwise: Riak's.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);

/// How to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// How long all of it may take. Default: 5 minutes.
    pub timeout: Option<Duration>,
}

impl Client {
    /// The keys of a bucket, batch by batch, in no order. After an error, which is the last item, the listing is not
    /// complete. Dropping the stream ends the scan.
    pub fn list_keys(
        &self,
        bucket: &Bucket,
        options: ListOptions,
    ) -> impl Stream<Item = Result<Vec<Bytes>, ListError>> + Send + use<> {
        let listing = Listing::start(self, bucket.kind(), bucket.prefix(), options);
        flatten(listing, |page| page.iter().map(|row| part(row, 2)).collect())
    }

    /// The buckets of a type that hold objects, batch by batch, each once. Errors as with [`Client::list_keys`].
    pub fn list_buckets(
        &self,
        kind: &[u8],
        options: ListOptions,
    ) -> impl Stream<Item = Result<Vec<Bytes>, ListError>> + Send + use<> {
        let listing = Listing::start(self, kind, type_prefix(kind), options);
        let mut seen = BTreeSet::new();
        flatten(listing, move |page| {
            let new = page.iter().map(|row| part(row, 1)).filter(|name| seen.insert(name.clone()));
            new.map(|name| Bytes::copy_from_slice(&name)).collect()
        })
    }
}

/// Type, bucket or key of a row that has matched a prefix.
fn part(row: &Bytes, which: usize) -> Bytes {
    parts(row).map_or_else(Bytes::new, |parts| row.slice_ref(parts[which]))
}

/// A listing under way.
struct Listing {
    client: Client,
    rows: Rows<()>,
    until: Instant,
    timeout: Duration,
}

impl Listing {
    fn start(client: &Client, kind: &[u8], prefix: Vec<u8>, options: ListOptions) -> Result<Self, ListError> {
        let allow_mult = client.props(kind)?.allow_mult;
        let rows = client.service.scan(&List { prefix, now_ms: client.now_ms(), allow_mult })?;
        let timeout = options.timeout.unwrap_or(TIMEOUT_DEFAULT);
        Ok(Self { client: client.clone(), rows, until: client.env.now() + timeout, timeout })
    }

    async fn next(&mut self) -> Option<Result<Vec<Bytes>, ListError>> {
        match self.client.env.timeout_at(self.until, self.rows.next()).await {
            Err(_) => Some(Err(ListError::Timeout { seconds: self.timeout.as_secs() })),
            Ok(page) => Some(match page? {
                Ok(rows) => Ok(rows.into_iter().map(|(row, _)| row).collect()),
                Err(error) => Err(error.into()),
            }),
        }
    }
}

/// The pages of a listing, which ends with its first error.
fn flatten(
    listing: Result<Listing, ListError>,
    of_page: impl FnMut(&[Bytes]) -> Vec<Bytes> + Send,
) -> impl Stream<Item = Result<Vec<Bytes>, ListError>> + Send {
    stream::unfold(Some((listing, of_page)), async |state| {
        let (listing, mut of_page) = state?;
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(error) => return Some((Err(error), None)),
        };
        match listing.next().await? {
            Ok(page) => Some((Ok(of_page(&page)), Some((Ok(listing), of_page)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}
