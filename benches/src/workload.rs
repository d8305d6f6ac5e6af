//! What the benchmarks ask for: corrections of stock, one movement each, over many SKUs or half of them on one.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, CommandKind, Operation, Payload, RULES_VERSION};
use twh_domain::id::{CommandId, TenantId};
use twh_domain::timestamp::Timestamp;
use twh_ingest::body::parse_payload;
use uuid::Uuid;

/// How the work spreads over the SKUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Every SKU alike.
    Uniform,
    /// Half of the work on one SKU.
    Hot,
}

impl Spread {
    pub(crate) const BOTH: [Self; 2] = [Self::Uniform, Self::Hot];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Hot => "hot",
        }
    }
}

/// Items of some tenants, and draws from them.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    /// Whose.
    pub(crate) tenants: Vec<TenantId>,
    /// How many a tenant.
    pub(crate) skus: usize,
    random: fastrand::Rng,
}

impl Catalogue {
    pub(crate) fn new(tenants: Vec<TenantId>, skus: usize) -> Self {
        Self { tenants, skus, random: fastrand::Rng::with_seed(7) }
    }

    /// The same items, drawn in another order.
    pub(crate) fn seeded(&self, seed: usize) -> Self {
        Self { random: fastrand::Rng::with_seed(seed as u64), ..self.clone() }
    }

    /// A tenant's number and the number of one of its SKUs.
    pub(crate) fn draw(&mut self, spread: Spread) -> (usize, usize) {
        if spread == Spread::Hot && self.random.bool() {
            return (0, 0);
        }
        (self.random.usize(..self.tenants.len()), self.random.usize(..self.skus))
    }

    pub(crate) fn tenant(&self, number: usize) -> TenantId {
        self.tenants.get(number).copied().unwrap_or(TenantId(Uuid::nil()))
    }

    /// What must be there first: a location and the items of every tenant.
    pub(crate) fn opening(&self) -> Result<Vec<Command>> {
        let mut commands = Vec::new();
        for tenant in &self.tenants {
            commands.push(command(*tenant, "location.create", r#"{"code":"MAIN"}"#)?);
            for number in 0..self.skus {
                commands.push(command(*tenant, "item.create", &format!(r#"{{"sku":"{}"}}"#, sku(number)))?);
            }
        }
        Ok(commands)
    }

    /// Plenty of everything.
    pub(crate) fn stock(&self) -> Result<Vec<Command>> {
        let lines: Vec<_> =
            (0..self.skus).map(|item| format!(r#"{{"sku":"{}","quantity":1000000}}"#, sku(item))).collect();
        let body = format!(r#"{{"location_code":"MAIN","reason":"opening","lines":[{}]}}"#, lines.join(","));
        self.tenants.iter().map(|tenant| command(*tenant, "adjustment.create", &body)).collect()
    }

    /// A seed for another order of draws.
    pub(crate) fn seed(&mut self) -> usize {
        self.random.usize(..)
    }

    /// A correction of one SKU: one movement.
    pub(crate) fn adjustment(&mut self, spread: Spread) -> Result<Command> {
        let (tenant, item) = self.draw(spread);
        command(self.tenant(tenant), "adjustment.create", &adjustment_body(item))
    }
}

pub(crate) fn sku(number: usize) -> String {
    format!("SKU-{number:05}")
}

/// The body of a correction by one.
pub(crate) fn adjustment_body(item: usize) -> String {
    format!(r#"{{"location_code":"MAIN","reason":"benchmark","lines":[{{"sku":"{}","quantity":1}}]}}"#, sku(item))
}

/// A command as the edge would make it of a request.
pub fn command(tenant: TenantId, kind: &str, body: &str) -> Result<Command> {
    let known = CommandKind::of(kind).with_context(|| format!("there is no command {kind:?}"))?;
    let payload: Payload =
        parse_payload(known, body.as_bytes()).map_err(|error| anyhow::anyhow!("{kind} {body}: {error}"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock")?;
    Ok(Command {
        command_id: CommandId(Uuid::now_v7()),
        tenant_id: tenant,
        rules_version: RULES_VERSION,
        issued_at: Timestamp::from_micros(i64::try_from(now.as_micros())?),
        actor: Actor {
            kind: "api_key".to_owned(),
            id: Uuid::nil().to_string(),
            ip: Some("127.0.0.1".to_owned()),
            user_agent: Some("twh-bench".to_owned()),
        }
        .into(),
        request_id: Uuid::now_v7().to_string().into(),
        idempotency_key: Uuid::new_v4().to_string(),
        fingerprint: "0".repeat(64),
        operations: vec![Operation { subject: Uuid::now_v7(), expected_version: None, payload }],
    })
}

/// Commands a tenant, in their order.
pub(crate) fn by_tenant(commands: Vec<Command>) -> BTreeMap<TenantId, Vec<Command>> {
    let mut sorted: BTreeMap<TenantId, Vec<Command>> = BTreeMap::new();
    for command in commands {
        sorted.entry(command.tenant_id).or_default().push(command);
    }
    sorted
}
