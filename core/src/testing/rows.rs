//! What a node keeps, row by row, for checkers that look behind the answers: are all owners equal, are dots unique,
//! who still has hints.

use crate::{
    Cluster,
    node::Shared,
    ring::Position,
    store::{
        RangeQuery, Store, StoreError, TableId,
        row::{Row, RowError},
    },
    vnode::service::{hints_table, items_table},
};
use bytes::Bytes;
use rondel_proto::id::NodeId;
use std::sync::Arc;

const SLICE_ROWS_MAX: usize = 1024;
const SLICE_BYTES_MAX: usize = 8 << 20;

/// A row as a node keeps it.
#[derive(Debug, Clone)]
pub struct StoredRow {
    /// The name of its service.
    pub service: &'static str,
    /// The key within the service.
    pub key: Bytes,
    /// Where the key stands on the ring.
    pub position: Position,
    /// What it is.
    pub kind: RowKind,
}

/// What a row is.
#[derive(Debug, Clone)]
pub enum RowKind {
    /// The item of the key.
    Item {
        /// Whether the node owns a slot of the key's partition.
        owned: bool,
        /// The row; or why it can't be read.
        row: Result<Row, RowError>,
    },
    /// A hint: the item is to be brought to a slot.
    Hint {
        /// The slot.
        slot: u8,
    },
}

impl Cluster {
    /// The nodes that own the slots of a position, in slot order, as this node knows them; none before the cluster is
    /// formed. The first that is up is who coordinates for a node that owns none.
    #[must_use]
    pub fn owners_of(&self, position: Position) -> Vec<NodeId> {
        let Some(topology) = self.shared().topology() else { return Vec::new() };
        let slots = &topology.slots(topology.partition(position)).slots;
        let mut owners = Vec::new();
        for occupant in slots.iter().flat_map(|slot| slot.write_set()) {
            if !owners.contains(&occupant.node) {
                owners.push(occupant.node);
            }
        }
        owners
    }

    /// Every row of every service of this node, items before hints. Only in simulation: the answer is unbounded.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn stored_rows(&self) -> Result<Vec<StoredRow>, StoreError> {
        let shared = self.shared();
        let mut rows = Vec::new();
        for service in shared.host.services.iter() {
            let store = shared.store(service.storage);
            for (at, bytes) in walk(store, items_table(service.code)).await? {
                let row = Row::decode(&at, &bytes);
                let kind = RowKind::Item { owned: owns(shared, at.position), row };
                rows.push(StoredRow { service: service.name, key: at.key, position: at.position, kind });
            }
            for (at, _) in walk(store, hints_table(service.code)).await? {
                let Some((&slot, _)) = at.key.split_first() else { continue };
                let (key, kind) = (at.key.slice(1..), RowKind::Hint { slot });
                rows.push(StoredRow { service: service.name, key, position: at.position, kind });
            }
        }
        Ok(rows)
    }
}

fn owns(shared: &Shared, position: Position) -> bool {
    let topology = shared.topology();
    topology.is_some_and(|topology| topology.my_slots(topology.partition(position)) != 0)
}

async fn walk(
    store: &Arc<dyn Store>,
    table: TableId,
) -> Result<Vec<(crate::store::RowKey, Bytes)>, StoreError> {
    let mut rows: Vec<(crate::store::RowKey, Bytes)> = Vec::new();
    loop {
        let slice = store
            .range(RangeQuery {
                table,
                first: Position(0),
                last: Position(u64::MAX),
                after: rows.last().map(|(at, _)| (at.position, at.key.clone())),
                rows_max: SLICE_ROWS_MAX,
                bytes_max: SLICE_BYTES_MAX,
            })
            .await?;
        rows.extend(slice.rows);
        if slice.end {
            return Ok(rows);
        }
    }
}
