//! The listing of all routes that a starting worker loads: bucket by bucket, in pages.

use std::ops::Range;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::engine::{Asked, Engine};
use super::keys::{Bucket, SESSION_BUCKETS};
use super::op::{ReadAnswer, Result};
use super::operations::{ListOp, RouteOp};
use super::stored::read_subscriptions;
use crate::{Cursor, Done, RoutePage, SessionRoutes, StoreError, StoredSession};

/// Sessions that one command lists.
pub(super) const SESSIONS_MAX: usize = 256;
/// Buckets that are listed at the same time.
pub(super) const BUCKETS_AT_ONCE: u16 = 256;

impl Engine {
    /// See [`crate::Store::routes`].
    pub(super) fn routes(
        self: &Arc<Self>,
        cursor: Option<Cursor>,
        sessions_max: usize,
        done: Done<RoutePage>,
    ) {
        let Some(done) = self.admit(done) else { return };
        let engine = Arc::clone(self);
        self.runtime.spawn(async move { done(engine.read_routes(cursor, sessions_max.max(1)).await) });
    }

    /// Begins to list the clients of a bucket, at most `clients_max` of them.
    pub(super) fn ask_clients(self: &Arc<Self>, bucket: Bucket, after: &str, clients_max: usize) -> Asked {
        let clients_max = clients_max as u64;
        self.ask(bucket, ListOp { after, clients_max }.on(&self.keys.of_bucket(bucket)))
    }

    async fn read_routes(self: &Arc<Self>, cursor: Option<Cursor>, sessions_max: usize) -> Result<RoutePage> {
        let (mut first, mut after) = read_cursor(cursor)?;
        let mut page = RoutePage::default();
        let mut visited = 0;
        while first < SESSION_BUCKETS {
            let last = first.saturating_add(BUCKETS_AT_ONCE).min(SESSION_BUCKETS);
            let clients_max = sessions_max.min(SESSIONS_MAX);
            let mut asked: Vec<Asked> = (first..last)
                .map(|bucket| {
                    let after = if bucket == first { std::mem::take(&mut after) } else { String::new() };
                    self.ask_clients(Bucket::Sessions(bucket), &after, clients_max)
                })
                .collect();
            asked.reverse();
            let mut under_way = Vec::new();
            for bucket in first..last {
                let mut answer = asked.pop();
                while let Some(asked) = answer.take() {
                    let mut clients = read_clients(asked.answer().await?)?.0;
                    let more = clients.len() >= clients_max;
                    clients.truncate(sessions_max - visited);
                    visited += clients.len();
                    let last_client = clients.last().cloned();
                    under_way.extend(clients.into_iter().map(|client| self.ask_route(bucket, client)));
                    let Some(last_client) = &last_client else { continue };
                    if visited >= sessions_max {
                        add_routes(under_way, &mut page).await?;
                        page.next = Some(write_cursor(bucket, last_client));
                        return Ok(page);
                    }
                    if more {
                        answer = Some(self.ask_clients(Bucket::Sessions(bucket), last_client, clients_max));
                    }
                }
            }
            add_routes(under_way, &mut page).await?;
            first = last;
        }
        Ok(page)
    }

    /// Begins to read what a client is subscribed to.
    fn ask_route(self: &Arc<Self>, bucket: u16, client: String) -> (String, Asked) {
        let op = RouteOp {}.on(&self.keys.of_client(&client));
        (client, self.ask(Bucket::Sessions(bucket), op))
    }
}

/// Ends what [`Engine::ask_route`] began.
async fn add_routes(under_way: Vec<(String, Asked)>, page: &mut RoutePage) -> Result<()> {
    for (client, asked) in under_way {
        let Some(route) = asked.answer().await?.maybe() else { continue };
        let [incarnation, epoch, subscriptions] = route.tuple()?;
        let subscriptions = read_subscriptions(subscriptions)?;
        if !subscriptions.is_empty() {
            let session =
                Arc::new(StoredSession { client_id: Arc::from(client), incarnation: incarnation.count()? });
            page.sessions.push(SessionRoutes { session, epoch: epoch.count()?, subscriptions });
        }
    }
    Ok(())
}

/// Works on some buckets, many of them at the same time. Stops at the first failure.
pub(super) async fn on_buckets<F>(buckets: Range<u16>, work: impl Fn(Bucket) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut under_way = JoinSet::new();
    for bucket in buckets {
        if under_way.len() >= usize::from(BUCKETS_AT_ONCE)
            && let Some(ended) = under_way.join_next().await
        {
            ended.map_err(|_| StoreError::Closed)??;
        }
        under_way.spawn(work(Bucket::Sessions(bucket)));
    }
    while let Some(ended) = under_way.join_next().await {
        ended.map_err(|_| StoreError::Closed)??;
    }
    Ok(())
}

/// Clients of a bucket, and how many Wills outlived their session there.
pub(super) fn read_clients(answer: redis::Value) -> Result<(Vec<String>, u64)> {
    let [clients, orphans] = answer.tuple()?;
    Ok((clients.list()?.into_iter().map(ReadAnswer::text).collect::<Result<_>>()?, orphans.count()?))
}

fn write_cursor(bucket: u16, client: &str) -> Cursor {
    Cursor([&bucket.to_be_bytes(), client.as_bytes()].concat().into())
}

fn read_cursor(cursor: Option<Cursor>) -> Result<(u16, String)> {
    const DAMAGED: StoreError = StoreError::Damaged { what: "cursor" };
    let Some(cursor) = cursor else { return Ok((0, String::new())) };
    let (bucket, client) = cursor.0.split_first_chunk().ok_or(DAMAGED)?;
    Ok((u16::from_be_bytes(*bucket), String::from_utf8(client.to_vec()).map_err(|_| DAMAGED)?))
}
