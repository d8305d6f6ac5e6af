//! Checks a tenant's ledger against itself, row by row, and never writes.
//!
//! Eight checks, in this order: the movements' sequence and hash chain; levels as the fold of movements; the audit records'
//! sequence and hash chain; documents as the newest of their audit records; outcomes of the commands behind audit records; what is
//! reserved as what open documents hold; the control records' sequence and hash chain; keys, members and the like as their newest
//! control records.
//! Each goes through its rows in pages, with memory for one page. How far it is fits into a few hundred bytes ([`Progress`]),
//! so that a check goes on where another process left it. A page is read in one snapshot, so that a ledger can be checked
//! while it is written to. A check ends with the first row that is not as it must be; the next check goes on.

mod chain;
mod control;
mod fold;
mod outcomes;
mod rows;

use super::PgPool;
use super::tree::KEPT_EVERY;
use chain::{Followed, Link, Page, ends, is_last, unsound};
pub use chain::{KnownHead, KnownHeads};
use fold::{compare, first_difference, fold};
use outcomes::Answered;
use rows::{Control, DocumentKey, Newest, Place, Unreadable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;
use twh_domain::entity::{Entity, EntityKind};
use twh_domain::event::{AUDIT_CHAIN, CONTROL_CHAIN};
use twh_domain::id::TenantId;
use twh_domain::level::StockLevel;
use twh_domain::merkle::Frontier;
use twh_domain::movement::{Hash, MOVEMENT_CHAIN};
use twh_domain::state::LedgerHead;
use twh_domain::total::Total;
use uuid::Uuid;

/// Rows in a page.
const PAGE: i64 = 5_000;
/// Levels with something reserved that are compared in one pass over the open documents.
const RESERVED_PAGE: i64 = 50_000;
/// Comes before every place.
const FIRST_PLACE: Place = (Uuid::nil(), Uuid::nil());

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Movements follow one another without a gap, each hash from the one before.
    Movements,
    /// Levels are the fold of their movements.
    Levels,
    /// Audit records follow one another without a gap, each hash from the one before.
    AuditRecords,
    /// Documents are what their newest audit record says.
    Documents,
    /// Commands that wrote audit records have their outcomes, for as long as their Idempotency-Keys are honoured.
    Outcomes,
    /// What is reserved is what open documents hold.
    Reservations,
    /// Records of everything else follow one another without a gap, each hash from the one before.
    ControlRecords,
    /// Keys, members and the like are what their newest control record says.
    ControlState,
}

/// The first row of a check that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Whose ledger.
    pub tenant_id: TenantId,
    /// Which check.
    pub check: Check,
    /// Which row.
    pub row: String,
    /// What is wrong with it.
    pub problem: String,
}

/// How many rows were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Movements whose place and hash were checked.
    pub movements: i64,
    /// Levels compared with their movements.
    pub levels: i64,
    /// Audit records whose place and hash were checked.
    pub audit_records: i64,
    /// Documents compared with their audit records.
    pub documents: i64,
    /// Audit records whose command's outcome was looked for.
    #[serde(default)]
    pub outcomes: i64,
    /// Levels whose reservations were compared with open documents.
    pub reserved_levels: i64,
    /// Records of keys, people and the like whose place and hash were checked.
    #[serde(default)]
    pub control_records: i64,
    /// Keys, members and the like that were compared with their control records.
    #[serde(default)]
    pub control_state: i64,
}

impl Counts {
    /// Adds another count.
    pub const fn add(&mut self, other: &Self) {
        self.movements += other.movements;
        self.levels += other.levels;
        self.audit_records += other.audit_records;
        self.documents += other.documents;
        self.outcomes += other.outcomes;
        self.reserved_levels += other.reserved_levels;
        self.control_records += other.control_records;
        self.control_state += other.control_state;
    }
}

/// A level whose movements are being added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Folding {
    place: Place,
    sequence: i64,
    level: StockLevel,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Movements(Followed),
    Levels { after: Place, folding: Option<Folding> },
    AuditRecords(Followed),
    Documents { after: DocumentKey },
    Outcomes { before: i64 },
    Reservations { after: Place },
    ControlRecords(Followed),
    ControlState { after: Option<control::Key> },
    Done,
}

const CONTROL_RECORD: &str = "control record";

/// A tenant's verification, as far as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    tenant_id: TenantId,
    phase: Phase,
    counts: Counts,
    findings: Vec<Finding>,
}

/// Where a tenant has a ledger.
const LEDGER: [&str; 4] = ["stock_movements", "stock_levels", "audit_log", "ledger_heads"];
/// Where it has anything else that is checked.
const CONTROL: [&str; 5] = ["control_audit", "control_audit_heads", "tenants", "api_keys", "memberships"];

/// Every tenant of which there is something to check, in order.
pub async fn tenants(pool: &PgPool) -> Result<Vec<TenantId>, sqlx::Error> {
    rows::tenants(&mut *pool.acquire().await?, &[LEDGER.as_slice(), CONTROL.as_slice()].concat()).await
}

/// Every tenant that has a ledger, in order, as a transaction sees it.
pub(super) async fn tenants_of(connection: &mut PgConnection) -> Result<Vec<TenantId>, sqlx::Error> {
    rows::tenants(connection, &LEDGER).await
}

/// Movements, audit records and control records of all tenants or one, by their heads: how long a verification will take.
pub async fn size(pool: &PgPool, tenant: Option<TenantId>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select (coalesce((select sum(movement_sequence + audit_sequence) from ledger_heads where $1 is null or tenant_id = $1), 0)
             + coalesce((select sum(sequence) from control_audit_heads where $1 is null or tenant_id = $1), 0))::bigint",
    )
    .bind(tenant.map(|tenant| tenant.0))
    .fetch_one(pool)
    .await
}

impl Progress {
    /// At the beginning of a tenant's ledger.
    #[must_use]
    pub fn new(tenant_id: TenantId) -> Self {
        Self {
            tenant_id,
            phase: Phase::Movements(Followed::genesis(MOVEMENT_CHAIN, tenant_id)),
            counts: Counts::default(),
            findings: Vec::new(),
        }
    }

    /// Whose ledger it is.
    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant_id
    }

    /// What was looked at.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What was found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// True when nothing is left to check.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Checks the next page. `known` are heads that the chains must contain.
    pub async fn step(&mut self, connection: &mut PgConnection, known: &KnownHeads) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(crate::postgres::SNAPSHOT).await?;
        let phase = self.phase.clone();
        let (check, next, found) = match phase {
            Phase::Movements(mut followed) => {
                let found = self.movements(&mut tx, &mut followed, known.movements.as_ref()).await?;
                (Check::Movements, Phase::Movements(followed), found)
            }
            Phase::Levels { mut after, mut folding } => {
                let found = self.levels(&mut tx, &mut after, &mut folding).await?;
                (Check::Levels, Phase::Levels { after, folding }, found)
            }
            Phase::AuditRecords(mut followed) => {
                let found = self.audit_records(&mut tx, &mut followed).await?;
                (Check::AuditRecords, Phase::AuditRecords(followed), found)
            }
            Phase::Documents { mut after } => {
                let found = self.documents(&mut tx, &mut after).await?;
                (Check::Documents, Phase::Documents { after }, found)
            }
            Phase::Outcomes { mut before } => {
                let found = self.outcomes(&mut tx, &mut before).await?;
                (Check::Outcomes, Phase::Outcomes { before }, found)
            }
            Phase::Reservations { mut after } => {
                let found = self.reservations(&mut tx, &mut after).await?;
                (Check::Reservations, Phase::Reservations { after }, found)
            }
            Phase::ControlRecords(mut followed) => {
                let known = known.control_records.as_ref();
                let found = self.control_records(&mut tx, &mut followed, known).await?;
                (Check::ControlRecords, Phase::ControlRecords(followed), found)
            }
            Phase::ControlState { mut after } => {
                let found = self.control_state(&mut tx, &mut after).await?;
                (Check::ControlState, Phase::ControlState { after }, found)
            }
            Phase::Done => return Ok(()),
        };
        self.phase = match found {
            Page::Sound => next,
            Page::End => self.after(check),
            Page::Unsound(unreadable) => {
                let Unreadable { row, problem } = unreadable;
                self.findings.push(Finding { tenant_id: self.tenant_id, check, row, problem });
                self.after(check)
            }
        };
        tx.commit().await
    }

    fn after(&self, check: Check) -> Phase {
        match check {
            Check::Movements => Phase::Levels { after: FIRST_PLACE, folding: None },
            Check::Levels => Phase::AuditRecords(Followed::genesis(AUDIT_CHAIN, self.tenant_id)),
            Check::AuditRecords => Phase::Documents { after: (Uuid::nil(), String::new()) },
            Check::Documents => Phase::Outcomes { before: i64::MAX },
            Check::Outcomes => Phase::Reservations { after: FIRST_PLACE },
            Check::Reservations => Phase::ControlRecords(Followed::genesis(CONTROL_CHAIN, self.tenant_id)),
            Check::ControlRecords => Phase::ControlState { after: None },
            Check::ControlState => Phase::Done,
        }
    }

    async fn movements(
        &mut self,
        tx: &mut PgConnection,
        followed: &mut Followed,
        known: Option<&KnownHead>,
    ) -> Result<Page, sqlx::Error> {
        let page = rows::movements(tx, self.tenant_id, followed.through, PAGE).await?;
        let end = is_last(page.len());
        let subtrees = rows::subtrees(tx, self.tenant_id, followed.through, PAGE).await?;
        for movement in page {
            let movement = match movement {
                Ok(movement) => movement,
                Err(unreadable) => return Ok(Page::Unsound(unreadable)),
            };
            let link = Link {
                noun: "movement",
                sequence: movement.sequence,
                recorded_at: movement.recorded_at,
                hash: movement.hash,
                expected: movement.chain(&followed.hash),
            };
            if let Err(unsound) = link.follow(followed) {
                return Ok(unsound);
            }
            self.counts.movements += 1;
            let mut frontier = Frontier(std::mem::take(&mut followed.frontier));
            let index = movement.sequence - 1;
            let completed = frontier.push(index, &movement.hash, KEPT_EVERY);
            followed.frontier = frontier.0;
            if let Some(completed) = completed
                && subtrees.get(&(index >> KEPT_EVERY)).is_some_and(|kept| *kept != completed)
            {
                return Ok(unsound(
                    format!("subtree {} of level {KEPT_EVERY}", index >> KEPT_EVERY),
                    "its hash is not that of its movements: proofs made with it are wrong",
                ));
            }
            if let Some(page) = known.and_then(|known| known.contradicts("movement", movement.sequence, &movement.hash))
            {
                return Ok(page);
            }
        }
        if !end {
            return Ok(Page::Sound);
        }
        if let Some(page) = known.and_then(|known| known.misses("movement", followed.through)) {
            return Ok(page);
        }
        self.head(tx, followed, "movement", |head| (head.movement_sequence, head.movement_hash)).await
    }

    async fn audit_records(&mut self, tx: &mut PgConnection, followed: &mut Followed) -> Result<Page, sqlx::Error> {
        let page = rows::audit_records(tx, self.tenant_id, followed.through, PAGE).await?;
        let end = is_last(page.len());
        for record in page {
            let record = match record {
                Ok(record) => record,
                Err(unreadable) => return Ok(Page::Unsound(unreadable)),
            };
            let link = Link {
                noun: "audit record",
                sequence: record.sequence,
                recorded_at: record.recorded_at,
                hash: record.hash,
                expected: record.chain(&followed.hash),
            };
            if let Err(unsound) = link.follow(followed) {
                return Ok(unsound);
            }
            self.counts.audit_records += 1;
        }
        if !end {
            return Ok(Page::Sound);
        }
        self.head(tx, followed, "audit record", |head| (head.audit_sequence, head.audit_hash)).await
    }

    async fn outcomes(&mut self, tx: &mut PgConnection, before: &mut i64) -> Result<Page, sqlx::Error> {
        let page = outcomes::answered(tx, self.tenant_id, *before, PAGE).await?;
        let mut end = is_last(page.len());
        for Answered { sequence, command, is_due, is_kept } in page {
            if !is_due {
                // Records before it are older still.
                end = true;
                break;
            }
            if !is_kept {
                return Ok(unsound(
                    format!("outcome of command {command}"),
                    &format!(
                        "is missing or does not lead to audit record {sequence}, which the command wrote: \
                         its Idempotency-Key would be decided a second time"
                    ),
                ));
            }
            *before = sequence;
            self.counts.outcomes += 1;
        }
        Ok(if end { Page::End } else { Page::Sound })
    }

    async fn control_records(
        &mut self,
        tx: &mut PgConnection,
        followed: &mut Followed,
        known: Option<&KnownHead>,
    ) -> Result<Page, sqlx::Error> {
        let page = rows::control_records(tx, self.tenant_id, followed.through, PAGE).await?;
        let end = is_last(page.len());
        for record in page {
            let Control { record, hash, before } = match record {
                Ok(record) => record,
                Err(unreadable) => return Ok(Page::Unsound(unreadable)),
            };
            let link = Link {
                noun: CONTROL_RECORD,
                sequence: record.sequence,
                // Its time is that of the request: of two at once, the later one may be first.
                recorded_at: followed.recorded_at,
                hash,
                expected: record.chain(&followed.hash),
            };
            if let Err(unsound) = link.follow(followed) {
                return Ok(unsound);
            }
            self.counts.control_records += 1;
            if let Some(page) = known.and_then(|known| known.contradicts(CONTROL_RECORD, record.sequence, &hash)) {
                return Ok(page);
            }
            let untold = control::untold_change(&record, before.as_deref());
            if let Some(problem) = untold {
                return Ok(unsound(format!("{CONTROL_RECORD} {}", record.sequence), &problem));
            }
        }
        if !end {
            return Ok(Page::Sound);
        }
        if let Some(page) = known.and_then(|known| known.misses(CONTROL_RECORD, followed.through)) {
            return Ok(page);
        }
        if followed.through == 0
            && let Some(problem) = control::without_records(tx, self.tenant_id).await?
        {
            return Ok(unsound(format!("tenant {}", self.tenant_id), &problem));
        }
        let head = rows::control_head(tx, self.tenant_id).await?;
        Ok(ends(followed, CONTROL_RECORD, "control head", head))
    }

    async fn control_state(
        &mut self,
        tx: &mut PgConnection,
        after: &mut Option<control::Key>,
    ) -> Result<Page, sqlx::Error> {
        let page = control::newest(tx, self.tenant_id, after.as_ref(), PAGE).await?;
        let end = is_last(page.len());
        let through = page.last().map(control::Newest::key);
        let last = if end { None } else { through.as_ref() };
        let mut standing = control::standing(tx, self.tenant_id, after.as_ref(), last).await?;
        for newest in page {
            let key = newest.key();
            let row = standing.remove(&key);
            if let Some(problem) = newest.contradicts(row.as_ref()) {
                return Ok(unsound(control::named(&key), &problem));
            }
            self.counts.control_state += 1;
        }
        if let Some(key) = standing.keys().next() {
            return Ok(unsound(control::named(key), "is in no control record"));
        }
        *after = through.or_else(|| after.take());
        Ok(if end { Page::End } else { Page::Sound })
    }

    /// The head says how long the chain is and how it ends: rows missing from its end are missed here.
    async fn head(
        &self,
        tx: &mut PgConnection,
        followed: &Followed,
        noun: &str,
        end: fn(&LedgerHead) -> (i64, Hash),
    ) -> Result<Page, sqlx::Error> {
        let head = rows::head(tx, self.tenant_id).await?.map(|head| head.map(|head| end(&head)));
        Ok(ends(followed, noun, "ledger head", head))
    }

    async fn levels(
        &mut self,
        tx: &mut PgConnection,
        after: &mut Place,
        folding: &mut Option<Folding>,
    ) -> Result<Page, sqlx::Error> {
        let from = folding.map_or((*after, i64::MAX), |folding| (folding.place, folding.sequence));
        let page = rows::movements_by_level(tx, self.tenant_id, from, PAGE).await?;
        let end = is_last(page.len());
        let mut folded = BTreeMap::new();
        for movement in page {
            let movement = match movement {
                Ok(movement) => movement,
                Err(unreadable) => return Ok(Page::Unsound(unreadable)),
            };
            let place = (movement.item.0, movement.location.0);
            let mut current = match folding.take() {
                Some(current) if current.place == place => current,
                done => {
                    folded.extend(done.map(|done| (done.place, done.level)));
                    Folding { place, sequence: 0, level: StockLevel::default() }
                }
            };
            if let Err(problem) = fold(&mut current.level, &movement) {
                return Ok(unsound(format!("movement {}", movement.sequence), &problem));
            }
            current.sequence = movement.sequence;
            *folding = Some(current);
        }
        if end {
            folded.extend(folding.take().map(|done| (done.place, done.level)));
        }
        let through = folded.last_key_value().map(|(place, _)| *place);
        if !end && through.is_none() {
            return Ok(Page::Sound);
        }
        let stored = rows::levels(tx, self.tenant_id, *after, if end { None } else { through }).await?;
        self.counts.levels += i64::try_from(folded.len()).unwrap_or_default();
        *after = through.unwrap_or(*after);
        Ok(match first_difference(&folded, &stored) {
            Some(((item, location), problem)) => {
                unsound(format!("level of item {item} at location {location}"), &problem)
            }
            None if end => Page::End,
            None => Page::Sound,
        })
    }

    async fn documents(&mut self, tx: &mut PgConnection, after: &mut DocumentKey) -> Result<Page, sqlx::Error> {
        let page = rows::newest(tx, self.tenant_id, after, PAGE).await?;
        let end = is_last(page.len());
        let through = page.last().map(|newest| newest.key.clone());
        let mut stored = BTreeMap::new();
        for kind in EntityKind::ALL {
            let last = if end { None } else { through.as_ref() };
            let rows = rows::stored(tx, *kind, self.tenant_id, after, last).await?;
            stored.extend(rows.into_iter().map(|(id, row)| ((*kind, id), row)));
        }
        let mut barcodes = BTreeMap::new();
        for Newest { key: (id, _), kind, document } in page {
            let kind = match kind {
                Ok(kind) => kind,
                Err(problem) => return Ok(unsound(format!("newest audit record of document {id}"), &problem)),
            };
            let row = format!("{} {id}", kind.noun());
            let Some(stored) = stored.remove(&(kind, id)) else {
                return Ok(unsound(row, "is missing, although the audit log tells of it"));
            };
            match compare(kind, &document, &stored) {
                Ok(Entity::Item(item)) => barcodes.extend(item.barcodes.into_iter().map(|barcode| (barcode, id))),
                Ok(_) => {}
                Err(problem) => return Ok(unsound(row, &problem)),
            }
            self.counts.documents += 1;
        }
        if let Some((kind, id)) = stored.keys().next() {
            return Ok(unsound(format!("{} {id}", kind.noun()), "is not in the audit log"));
        }
        let asked: Vec<&str> = barcodes.keys().map(String::as_str).collect();
        let owners = rows::barcode_owners(tx, self.tenant_id, &asked).await?;
        if let Some((barcode, item)) = barcodes.iter().find(|(barcode, item)| owners.get(*barcode) != Some(item)) {
            return Ok(unsound(format!("barcode {barcode:?}"), &format!("does not lead to item {item}, whose it is")));
        }
        if let Some(through) = through {
            *after = through;
        }
        Ok(if end { Page::End } else { Page::Sound })
    }

    async fn reservations(&mut self, tx: &mut PgConnection, after: &mut Place) -> Result<Page, sqlx::Error> {
        let mut reserved = rows::reserved_levels(tx, self.tenant_id, *after, RESERVED_PAGE).await?;
        let end = i64::try_from(reserved.len()).unwrap_or_default() < RESERVED_PAGE;
        let through = reserved.last_key_value().map(|(place, _)| *place);
        self.counts.reserved_levels += i64::try_from(reserved.len()).unwrap_or_default();
        for kind in [EntityKind::SalesOrder, EntityKind::Reservation] {
            let mut after_document = Uuid::nil();
            loop {
                let page = rows::open_documents(tx, kind, self.tenant_id, after_document, PAGE).await?;
                let last = is_last(page.len());
                for (id, document) in page {
                    after_document = id;
                    let document = match document {
                        Ok(document) => document,
                        Err(problem) => return Ok(unsound(format!("{} {id}", kind.noun()), &problem)),
                    };
                    for (item, location, quantity) in document.holds() {
                        let place = (item.0, location.0);
                        if place > *after && (end || through.is_some_and(|through| place <= through)) {
                            *reserved.entry(place).or_default() -= quantity.into();
                        }
                    }
                }
                if last {
                    break;
                }
            }
        }
        *after = through.unwrap_or(*after);
        let differing = reserved.into_iter().find(|(_, difference)| *difference != Total::ZERO);
        Ok(match differing {
            Some(((item, location), difference)) => unsound(
                format!("level of item {item} at location {location}"),
                &format!("reserves {difference} more than open documents hold"),
            ),
            None if end => Page::End,
            None => Page::Sound,
        })
    }
}
