//! Clients: they ask, wait for the answer, and ask again with the same Idempotency-Key until they have it; sometimes twice at
//! once, sometimes with another body, sometimes their request is delivered twice.

use crate::log::SimLog;
use crate::world::{Incarnation, World};
use futures::FutureExt as _;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, Operation, Payload, RULES_VERSION};
use twh_domain::id::{CommandId, TenantId};
use twh_domain::outcome::{Outcome, Verdict};
use twh_processors::seams::Log as _;
use twh_schemas::catalogue::{COMMANDS, OUTCOMES};
use twh_schemas::headers::REPLY_PARTITION;
use twh_schemas::partition::partition_of;
use twh_sinks::kafka::Outgoing;
use uuid::Uuid;

const ITEMS: u64 = 3;
/// Tries before a client takes it for lost; with faults over, one is enough.
const TRIES_MAX: u32 = 100;

/// One thing to do: its kind, what it acts upon, its body.
#[derive(Clone)]
struct Wish(Vec<(&'static str, Option<Uuid>, Value)>);

impl Wish {
    fn one(kind: &'static str, subject: Option<Uuid>, body: Value) -> Self {
        Self(vec![(kind, subject, body)])
    }

    /// What was asked, whoever asks and whenever: two tries have the same.
    fn fingerprint(&self) -> String {
        self.0.iter().map(|(kind, subject, body)| format!("{kind} {subject:?} {body};")).collect()
    }
}

/// A tenant's client.
#[derive(Clone)]
pub(crate) struct Client {
    world: World,
    log: SimLog,
    tenant: TenantId,
    partition: i32,
}

fn uuid(world: &World) -> Uuid {
    Uuid::from_u128(world.lock().random.u128(..))
}

impl Client {
    pub(crate) fn new(world: &World, number: i32, tenant: TenantId) -> Self {
        let name = format!("client {number}").into();
        let incarnation = Incarnation { world: world.clone(), name, crashed: CancellationToken::new() };
        Self { world: world.clone(), log: SimLog(incarnation), tenant, partition: number % 8 }
    }

    /// Items, a location, and little of each item there.
    pub(crate) async fn set_up(&self) {
        self.ask(&Wish::one("location.create", None, json!({ "code": "L" }))).await;
        for item in 0..ITEMS {
            self.ask(&Wish::one("item.create", None, json!({ "sku": format!("S{item}") }))).await;
            let lines = json!([{ "sku": format!("S{item}"), "quantity": 5 + self.world.below(10) }]);
            let body = json!({ "location_code": "L", "reason": "opening", "lines": lines });
            self.ask(&Wish::one("adjustment.create", None, body)).await;
        }
    }

    /// Trades until it has asked for so many things.
    pub(crate) async fn trade(self, wishes: u64) {
        let mut orders: VecDeque<(Uuid, &'static str)> = VecDeque::new();
        for _ in 0..wishes {
            if self.world.over.is_cancelled() {
                return;
            }
            self.world.pause(0, 200).await;
            match orders.pop_front() {
                Some((order, "allocate")) => {
                    let outcome = self.ask(&Wish::one("sales_order.allocate", Some(order), json!({}))).await;
                    if matches!(outcome.as_deref(), Some(Verdict::Accepted { .. })) {
                        orders.push_back((order, if self.world.one_in(4) { "cancel" } else { "ship" }));
                    }
                }
                Some((order, "ship")) => {
                    self.ask(&Wish::one("sales_order.ship", Some(order), json!({}))).await;
                }
                Some((order, _)) => {
                    self.ask(&Wish::one("sales_order.cancel", Some(order), json!({}))).await;
                }
                None => {
                    let wish = self.wish();
                    let verdict = self.ask(&wish).await;
                    if let (Some(("sales_order.create", ..)), Some(Verdict::Accepted { resources, .. })) =
                        (wish.0.first(), verdict.as_deref())
                    {
                        orders.extend(resources.iter().map(|resource| (resource.id, "allocate")));
                    }
                }
            }
        }
    }

    fn line(&self, most: u64) -> Value {
        json!({ "sku": format!("S{}", self.world.below(ITEMS)), "quantity": 1 + self.world.below(most) })
    }

    fn wish(&self) -> Wish {
        let adjustment = |line: Value| json!({ "location_code": "L", "reason": "counted", "lines": [line] });
        match self.world.below(12) {
            0..6 => {
                let lines: Vec<_> = (0..=self.world.below(3)).map(|_| self.line(4)).collect();
                Wish::one("sales_order.create", None, json!({ "location_code": "L", "lines": lines }))
            }
            6..8 => Wish::one("adjustment.create", None, adjustment(self.line(3))),
            8 => {
                let mut line = self.line(3);
                if let Some(quantity) = line.get("quantity").and_then(Value::as_i64) {
                    line = json!({ "sku": line.get("sku"), "quantity": -quantity });
                }
                Wish::one("adjustment.create", None, adjustment(line))
            }
            9 => {
                let line =
                    json!({ "sku": format!("S{}", self.world.below(ITEMS)), "quantity_counted": self.world.below(12) });
                Wish::one("count.create", None, json!({ "location_code": "L", "lines": [line] }))
            }
            10 => {
                let mut body = self.line(2);
                if let Some(body) = body.as_object_mut() {
                    body.insert("location_code".to_owned(), json!("L"));
                }
                Wish::one("reservation.create", None, body)
            }
            // All or nothing.
            _ => Wish(vec![
                ("adjustment.create", None, adjustment(self.line(2))),
                (
                    "reservation.create",
                    None,
                    json!({ "sku": "S0", "location_code": "L", "quantity": 1 + self.world.below(6) }),
                ),
            ]),
        }
    }

    /// Asks under a key of its own until there is an answer; `None` when the run is over first.
    async fn ask(&self, wish: &Wish) -> Option<Arc<Verdict>> {
        let key = uuid(&self.world).to_string();
        if self.world.fault(12) {
            // The same once more, at the same time, from another connection.
            let (twin, wish, key) = (self.clone(), wish.clone(), key.clone());
            tokio::spawn(async move { twin.insist(&wish, &key).await });
        }
        let verdict = self.insist(wish, &key).await;
        if self.world.fault(15) {
            // The key is used for something else, by mistake.
            self.insist(&Wish::one("item.create", None, json!({ "sku": "other" })), &key).await;
        }
        verdict
    }

    async fn insist(&self, wish: &Wish, key: &str) -> Option<Arc<Verdict>> {
        for tried in 0..TRIES_MAX {
            if self.world.over.is_cancelled() {
                return None;
            }
            if self.is_halted() {
                // It is refused at once, and comes back.
                self.world.pause(100, 2_000).await;
                continue;
            }
            if let Some(outcome) = self.attempt(wish, key, tried).await {
                let checked = {
                    let mut inner = self.world.lock();
                    let inner = &mut *inner;
                    inner.stats.answers += 1;
                    inner.model.answered(self.tenant, key, &wish.fingerprint(), &outcome.verdict, &inner.tables)
                };
                self.world.check(checked);
                return Some(outcome.verdict);
            }
        }
        if self.is_halted() {
            return None;
        }
        let (stands, waiting) = {
            let inner = self.world.lock();
            let stands: Vec<_> = inner
                .tables
                .partitions
                .iter()
                .map(|(p, row)| format!("{p}: {} of {}", row.reached.next_offset, inner.topics.end(*p)))
                .collect();
            (stands.join(", "), inner.tables.outbox.len())
        };
        self.world.found(format!(
            "key {key} has no answer after {TRIES_MAX} tries; decided {stands}; {waiting} batches wait to be published"
        ));
        None
    }

    /// Whether the tenant's partition stands until a person has looked.
    fn is_halted(&self) -> bool {
        let partition = partition_of(self.tenant.to_string().as_bytes(), self.world.partitions);
        self.world.lock().tables.is_halted(partition)
    }

    /// One request: a command onto the log, and a while of waiting for what becomes of it; longer after each try, or a ledger
    /// that has fallen behind would only ever see more of the same.
    async fn attempt(&self, wish: &Wish, key: &str, tried: u32) -> Option<Outcome> {
        let command = self.command(wish, key)?;
        let payload = self.world.schemas.commands.encode(&command).ok()?;
        let tenant = self.tenant.to_string();
        let headers = vec![(REPLY_PARTITION.into(), self.partition.to_string().into())];
        let record = Outgoing {
            topic: COMMANDS.name,
            partition: None,
            key: tenant.as_bytes(),
            headers: &headers,
            payload: &payload,
        };
        let times = if self.world.fault(15) { vec![record, record] } else { vec![record] };
        // An error says nothing about whether it is there; the client asks again all the same.
        self.log.append(&times).await.ok()?;
        if self.world.fault(10) {
            // The answer is lost on its way.
            self.world.pause(0, 1_000).await;
            return None;
        }
        let looks = (20 + self.world.below(100)) * u64::from(tried + 1);
        for _ in 0..looks {
            self.world.pause(5, 50).await;
            if let Some(outcome) = self.outcome(command.command_id) {
                return Some(outcome);
            }
        }
        None
    }

    fn command(&self, wish: &Wish, key: &str) -> Option<Command> {
        let operation = |(kind, subject, body): &(&'static str, Option<Uuid>, Value)| {
            let payload = Payload::deserialize_kind(kind, body.clone())?.ok()?;
            Some(Operation { subject: subject.unwrap_or_else(|| uuid(&self.world)), expected_version: None, payload })
        };
        let operations: Option<Vec<Operation>> = wish.0.iter().map(operation).collect();
        let Some(operations) = operations else {
            self.world.found(format!("a client asks for what there is not: {}", wish.fingerprint()));
            return None;
        };
        Some(Command {
            command_id: CommandId(uuid(&self.world)),
            tenant_id: self.tenant,
            rules_version: RULES_VERSION,
            issued_at: self.world.now(),
            actor: Actor { kind: "api_key".to_owned(), id: "client".to_owned(), ip: None, user_agent: None }.into(),
            request_id: "simulated".into(),
            idempotency_key: key.to_owned(),
            fingerprint: wish.fingerprint(),
            operations,
        })
    }

    /// What the reply partition says about a command; the newest first, as repeats come later.
    fn outcome(&self, command: CommandId) -> Option<Outcome> {
        let key = command.to_string();
        let payload = {
            let inner = self.world.lock();
            let found = inner
                .topics
                .of(OUTCOMES.name, self.partition)
                .iter()
                .rev()
                .find(|r| r.key.as_deref() == Some(key.as_bytes()));
            found.map(|record| record.payload.clone())
        }?;
        self.world.schemas.outcomes.decode(&payload).now_or_never()?.ok()
    }
}
