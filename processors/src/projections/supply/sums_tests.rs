//! Sums of the largest quantities there are, through the fold and its SQL.

use super::fold::Fold;
use super::tests::{ITEM, NORTH, SOUTH, TENANT, history, item, moved_at};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use time::{Date, Month};
use twh_domain::decimal::Quantity;
use twh_domain::id::LocationId;
use twh_domain::timestamp::Timestamp;
use twh_domain::total::Total;
use twh_schemas::records::DomainEvent;
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::builds::{self, Build, Projection, State};
use twh_sinks::postgres::positions::{self, Hold};
use twh_sinks::postgres::sqlx::{self, Executor as _, PgPool};
use twh_sinks::postgres::{connect, supply};
use twh_tests::database::Databases;
use uuid::Uuid;

/// Days since 1970-01-01.
type DayNumber = i32;
/// At the first location or not, on which day, what is on hand after it, and whether a batch ends with it.
type Move = (bool, DayNumber, Quantity, bool);

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let on_hand = prop_oneof![
        3 => Just(Quantity::MAX),
        3 => Just(Quantity::MIN),
        1 => Just(Quantity::ZERO),
        1 => (Quantity::MIN.micros()..=Quantity::MAX.micros()).prop_map(|micros| Quantity::from_micros(micros).unwrap()),
    ];
    prop::collection::vec((any::<bool>(), 0..3, on_hand, prop::bool::weighted(0.3)), 12..60)
}

fn place(is_north: bool) -> LocationId {
    if is_north { NORTH } else { SOUTH }
}

/// What the moves come to, by location and day: what came and what went.
fn expected(moves: &[Move]) -> BTreeMap<(LocationId, DayNumber), (Total, Total)> {
    let (mut days, mut levels) = (BTreeMap::new(), BTreeMap::new());
    for (is_north, day, on_hand, _) in moves {
        let before = levels.insert(*is_north, *on_hand).unwrap_or_default();
        let moved = i128::from(on_hand.micros()) - i128::from(before.micros());
        if moved != 0 {
            let sums: &mut (Total, Total) = days.entry((place(*is_north), *day)).or_default();
            sums.0 += Total::from_micros(moved.max(0));
            sums.1 += Total::from_micros((-moved).max(0));
        }
    }
    days
}

async fn write(pool: &PgPool, build: &Build, hold: &mut Hold, events: &[DomainEvent]) {
    let (held, reflected) = supply::held(pool, build, hold, &[(TENANT, ITEM)], &[TENANT]).await.unwrap();
    let mut fold = Fold::new(held, reflected, Timestamp::default());
    events.iter().for_each(|event| fold.add(event));
    let reached = Reached::before(hold.reached.next_offset + 1);
    supply::write(pool, build, hold, reached, &[], &fold.finish()).await.unwrap();
    hold.reached = reached;
}

async fn check(pool: &PgPool, build: &Build, hold: &mut Hold, moves: &[Move]) {
    pool.execute("truncate supply_items, supply_days, supply_crossings").await.unwrap();
    let events: Vec<_> = std::iter::once(item(1, Some("5")))
        .chain((2..).zip(moves).map(|(sequence, (is_north, day, on_hand, _))| {
            moved_at(sequence, *day, &[(place(*is_north), &on_hand.to_string(), "0")])
        }))
        .collect();
    let ends = std::iter::once(false).chain(moves.iter().map(|one| one.3));
    let mut batch = Vec::new();
    for (event, ends) in history(events).into_iter().zip(ends) {
        batch.push(event);
        if ends {
            write(pool, build, hold, &std::mem::take(&mut batch)).await;
        }
    }
    write(pool, build, hold, &batch).await;

    let mut connection = pool.acquire().await.unwrap();
    let days = expected(moves);
    let on_hand = |of: &dyn Fn(LocationId) -> bool| {
        days.iter().filter(|((location, _), _)| of(*location)).map(|(_, (came, went))| *came - *went).sum::<Total>()
    };
    let now = supply::item_supply(&mut connection, TENANT, build, ITEM.0).await.unwrap().unwrap();
    assert_eq!((now.on_hand, now.reserved), (on_hand(&|_| true), Total::ZERO));
    let epoch = Date::from_calendar_date(1970, Month::January, 1).unwrap();
    let span = (epoch, Date::from_calendar_date(1970, Month::February, 1).unwrap());
    let told = supply::history(&mut connection, TENANT, build, ITEM.0, None, span).await.unwrap().unwrap();
    let day = |day: Date| day.to_julian_day() - epoch.to_julian_day();
    let of_days: BTreeMap<_, _> = told
        .iter()
        .flat_map(|one| one.days.iter().map(|row| ((LocationId(one.location_id), day(row.day)), (row.came, row.went))))
        .collect();
    assert_eq!(of_days, days);
    for one in &told {
        let last = one.days.last().unwrap();
        assert_eq!(last.on_hand, on_hand(&|location| location.0 == one.location_id));
    }
}

/// A quantity has eighteen digits, and a bigint nineteen: ten of the largest are more than it holds.
#[test]
fn sums_of_the_largest_quantities_are_exact_in_the_fold_and_in_the_database() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = format!("twh_sums_{}", Uuid::new_v4().simple());
    let (mut databases, pool, build, hold) = runtime.block_on(async {
        let mut databases = Databases::shared().await.unwrap();
        let pool = connect(&databases.create_migrated(&name).await.unwrap(), 2, "sums-tests").unwrap();
        let build = builds::begin(&pool, Projection::Supply, "sums", State::Serving).await.unwrap();
        let hold = positions::claim(&pool, &build.positions(), 0, 0, "sums", "sums").await.unwrap();
        for (id, code) in [(NORTH, "NORTH"), (SOUTH, "SOUTH")] {
            sqlx::query("insert into locations (tenant_id, id, code, version, created_at, updated_at, document) values ($1, $2, $3, 1, now(), now(), '{}')")
                .bind(TENANT.0)
                .bind(id.0)
                .bind(code)
                .execute(&pool)
                .await
                .unwrap();
        }
        (databases, pool, build, hold)
    });
    let hold = std::cell::RefCell::new(hold);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&moves(), |moves| {
        runtime.block_on(check(&pool, &build, &mut hold.borrow_mut(), &moves));
        Ok(())
    });
    runtime.block_on(async {
        pool.close().await;
        databases.remove(&[name]).await.unwrap();
    });
    outcome.unwrap();
}
