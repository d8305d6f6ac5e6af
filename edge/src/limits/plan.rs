//! Plans, and what each may ask for.

use std::fmt;
use twh_sinks::counters::gcra::Rate;

/// A tenant's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plan {
    /// To try it out.
    Free,
    /// A small business.
    Growth,
    /// A large one.
    Scale,
    /// By contract.
    Enterprise,
}

/// The reserved pools of the upper plans: the share of the process's in-flight bound, in per mille, above which a plan is shed
/// with 503, so that the rest is left to those above it. Enterprise stands in no row: it has all, up to the bound itself.
pub const SHED_ABOVE: [(Plan, u32); 3] = [(Plan::Free, 500), (Plan::Growth, 700), (Plan::Scale, 850)];

impl Plan {
    /// Every plan, the least first.
    pub const ALL: [Self; 4] = [Self::Free, Self::Growth, Self::Scale, Self::Enterprise];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Growth => "growth",
            Self::Scale => "scale",
            Self::Enterprise => "enterprise",
        }
    }

    /// Webhook subscriptions that a tenant may have. Each event is delivered to at most so many.
    #[must_use]
    pub const fn webhooks_max(self) -> i64 {
        match self {
            Self::Free => 10,
            Self::Growth => 100,
            Self::Scale => 1_000,
            Self::Enterprise => 10_000,
        }
    }

    /// The plan with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.name() == name)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a plan may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// All of a tenant's requests together.
    pub tenant: Rate,
    /// The requests of one of its keys.
    pub key: Rate,
}

impl Policy {
    /// A share of it, for a process that cannot ask the others.
    #[must_use]
    pub const fn divided(self, by: u32) -> Self {
        Self { tenant: self.tenant.divided(by), key: self.key.divided(by) }
    }
}

/// The policy of each plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    free: Policy,
    growth: Policy,
    scale: Policy,
    enterprise: Policy,
}

impl Default for Policies {
    fn default() -> Self {
        let policy = |tenant: (u32, u32), key: (u32, u32)| Policy {
            tenant: Rate::new(tenant.0, tenant.1),
            key: Rate::new(key.0, key.1),
        };
        Self {
            free: policy((10, 50), (5, 25)),
            growth: policy((50, 250), (25, 125)),
            scale: policy((500, 2_500), (250, 1_250)),
            enterprise: policy((5_000, 25_000), (5_000, 25_000)),
        }
    }
}

impl Policies {
    /// The policy of a plan.
    #[must_use]
    pub const fn of(&self, plan: Plan) -> Policy {
        match plan {
            Plan::Free => self.free,
            Plan::Growth => self.growth,
            Plan::Scale => self.scale,
            Plan::Enterprise => self.enterprise,
        }
    }

    /// The table with some rows replaced, such as `free=10/50,5/25;scale=500/2500,250/1250`: the plan, then requests a second
    /// and burst of the tenant, then those of a key. Tells everything that is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut policies, mut errors, mut seen) = (Self::default(), Vec::new(), Vec::new());
        for row in text.split(';').map(str::trim).filter(|row| !row.is_empty()) {
            let (name, value) = row.split_once('=').unwrap_or((row, ""));
            let Some(plan) = Plan::from_name(name.trim()) else {
                let names = Plan::ALL.map(Plan::name).join(", ");
                errors.push(format!("{:?} is no plan ({names})", name.trim()));
                continue;
            };
            if seen.contains(&plan) {
                errors.push(format!("{plan} stands there twice"));
            }
            seen.push(plan);
            match policy(value) {
                Ok(policy) => *policies.of_mut(plan) = policy,
                Err(problems) => errors.extend(problems.into_iter().map(|problem| format!("{plan}: {problem}"))),
            }
        }
        if errors.is_empty() { Ok(policies) } else { Err(errors) }
    }

    const fn of_mut(&mut self, plan: Plan) -> &mut Policy {
        match plan {
            Plan::Free => &mut self.free,
            Plan::Growth => &mut self.growth,
            Plan::Scale => &mut self.scale,
            Plan::Enterprise => &mut self.enterprise,
        }
    }
}

fn policy(text: &str) -> Result<Policy, Vec<String>> {
    let Some((tenant, key)) = text.split_once(',') else {
        return Err(vec!["must be RATE/BURST of the tenant, a comma, and RATE/BURST of a key".to_owned()]);
    };
    match (rate("tenant", tenant), rate("key", key)) {
        (Ok(tenant), Ok(key)) => Ok(Policy { tenant, key }),
        (tenant, key) => Err([tenant.err(), key.err()].into_iter().flatten().flatten().collect()),
    }
}

fn rate(whose: &str, text: &str) -> Result<Rate, Vec<String>> {
    let (per_second, burst) = text.split_once('/').unwrap_or((text, ""));
    let number = |what: &str, text: &str, max: u32| match text.trim().parse::<u32>() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(format!("the {whose}'s {what} must be a whole number from 1 to {max}, not {:?}", text.trim())),
    };
    match (number("rate", per_second, Rate::PER_SECOND_MAX), number("burst", burst, Rate::BURST_MAX)) {
        (Ok(per_second), Ok(burst)) => Ok(Rate::new(per_second, burst)),
        (per_second, burst) => Err([per_second.err(), burst.err()].into_iter().flatten().collect()),
    }
}
