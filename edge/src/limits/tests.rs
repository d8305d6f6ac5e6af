use super::*;
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::{App, HttpResponse, middleware};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use twh_sinks::counters::Deadlines;

const QUIET: fn() -> u32 = || 0;

fn redis_url() -> String {
    std::env::var("TWH_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:16379".to_owned())
}

async fn connected(limiter: &Limiter, patience: Duration) {
    let connected = async {
        while !limiter.is_shared() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, connected).await.expect("Redis answers: ./dev up starts it");
}

/// Over the real Redis.
fn over_redis(policies: &str) -> RateLimits {
    let patient = Duration::from_secs(5);
    let counters = Counters::new(&redis_url(), Deadlines { call: patient, connect: patient }).unwrap();
    RateLimits::new(Some(counters), Policies::parse(policies).unwrap(), QUIET)
}

/// Over the real Redis, connected.
async fn shared(policies: &str) -> Limiter {
    let limiter = over_redis(policies).limiter();
    connected(&limiter, Duration::from_secs(10)).await;
    limiter
}

fn subject(plan: Plan) -> Subject {
    Subject { tenant: TenantId(Uuid::new_v4()), credential: Uuid::new_v4(), plan }
}

fn headers_of(admission: &Admission) -> Vec<String> {
    let mut headers = HeaderMap::new();
    admission.write_headers(&mut headers);
    let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit-policy", "ratelimit"];
    names.map(|name| headers.get(name).unwrap().to_str().unwrap().to_owned()).to_vec()
}

#[test]
fn everything_that_is_wrong_with_a_table_is_told() {
    let errors = Policies::parse("gold=1/1,1/1; free=0/5,x/;growth=5/5;scale=1/2,3/4;scale=1/2,3/4").unwrap_err();
    assert_eq!(errors.len(), 6, "{errors:#?}");
    let policies = Policies::parse(" free = 3/4, 1/2 ;").unwrap();
    assert_eq!(policies.of(Plan::Free), Policy { tenant: Rate::new(3, 4), key: Rate::new(1, 2) });
    assert_eq!(policies.of(Plan::Scale), Policies::default().of(Plan::Scale));
    assert_eq!(Policies::parse(""), Ok(Policies::default()));
}

#[test]
fn a_batch_costs_one_request_and_one_more_for_every_ten_commands() {
    assert_eq!([1, 9, 10, 99, 100].map(cost_of_batch), [1, 1, 2, 10, 11]);
}

#[test]
fn plans_have_names_that_lead_back() {
    for plan in Plan::ALL {
        assert_eq!(Plan::from_name(plan.name()), Some(plan));
    }
}

#[actix_web::test]
async fn keys_of_a_tenant_share_its_bucket_over_limiters_and_tenants_share_nothing() {
    let (one, other) = (shared("free=1/5,1/3").await, shared("free=1/5,1/3").await);
    let (first, second) = (subject(Plan::Free), subject(Plan::Free));
    let sibling = Subject { credential: Uuid::new_v4(), ..first };
    let mut admission = None;
    for _ in 0..3 {
        admission = Some(one.admit(&first, 1).await.unwrap());
    }
    let expected = ["3", "0", "3", "\"tenant\";q=5;w=5, \"key\";q=3;w=3", "\"tenant\";r=2;t=3, \"key\";r=0;t=3"];
    assert_eq!(headers_of(&admission.unwrap()), expected);
    let refused = other.admit(&first, 1).await.unwrap_err();
    assert_eq!(refused.error.code(), ErrorCode::RateLimited);
    // What its key refuses, the tenant does not pay for: two are left for the other key.
    other.admit(&sibling, 1).await.unwrap();
    one.admit(&sibling, 1).await.unwrap();
    let refused = one.admit(&sibling, 1).await.unwrap_err();
    assert!(headers_of(&refused.admission.unwrap())[0] == "5", "the tenant's bucket is the tightest");
    one.admit(&second, 1).await.unwrap();
}

#[actix_web::test]
async fn connections_apart_share_the_buckets_also_where_redis_is_away() {
    let away = RateLimits::new(None, Policies::parse("free=1/20,1/8").unwrap(), QUIET);
    for (limits, is_there) in [(over_redis("free=1/5,1/2"), true), (away, false)] {
        let (limiter, apart, subject) = (limits.limiter(), limits.limiter(), subject(Plan::Free));
        if is_there {
            connected(&limiter, Duration::from_secs(10)).await;
            connected(&apart, Duration::from_secs(10)).await;
        }
        limiter.admit(&subject, 1).await.unwrap();
        apart.admit(&subject, 1).await.unwrap();
        assert_eq!(limiter.admit(&subject, 1).await.unwrap_err().error.code(), ErrorCode::RateLimited);
        assert_eq!(apart.admit(&subject, 1).await.unwrap_err().error.code(), ErrorCode::RateLimited);
    }
}

#[actix_web::test]
async fn a_batch_larger_than_the_burst_is_let_through_by_a_full_bucket_and_only_by_one() {
    let limiter = shared("free=1000/5,1000/5").await;
    let subject = subject(Plan::Free);
    limiter.admit(&subject, 1).await.unwrap();
    limiter.raise(&subject, 1, 11).await.unwrap();
    let limiter = shared("free=1/5,1/5").await;
    let subject = self::subject(Plan::Free);
    limiter.admit(&subject, 1).await.unwrap();
    limiter.admit(&subject, 1).await.unwrap();
    let refused = limiter.raise(&subject, 1, 11).await.unwrap_err();
    // Two are gone; all five must be back before the batch can begin anew.
    assert_eq!(refused.admission.unwrap().retry_after_seconds(), 2);
}

#[actix_web::test]
async fn under_pressure_the_lesser_plans_give_way_first() {
    static PRESSURE: AtomicU32 = AtomicU32::new(0);
    let limiter = RateLimits::new(None, Policies::default(), || PRESSURE.load(Ordering::Relaxed)).limiter();
    for (pressure, served) in [(500, 4), (501, 3), (700, 3), (701, 2), (850, 2), (851, 1), (1_000, 1)] {
        PRESSURE.store(pressure, Ordering::Relaxed);
        for (rank, plan) in Plan::ALL.into_iter().rev().enumerate() {
            let decided = limiter.admit(&subject(plan), 1).await;
            assert_eq!(decided.is_ok(), rank < served, "{plan} at {pressure}");
            if let Err(refused) = decided {
                assert_eq!(refused.error.response("").headers().get("retry-after").unwrap(), "1");
                assert_eq!(refused.error.code(), ErrorCode::Overloaded);
            }
        }
    }
}

#[actix_web::test]
async fn requests_under_way_are_pressure_also_where_no_command_is() {
    // The one that asks is under way itself.
    for (most, status) in [(1, StatusCode::SERVICE_UNAVAILABLE), (1_000_000, StatusCode::OK)] {
        let limits = RateLimits::new(None, Policies::default(), move || crate::request::under_way_per_mille(most));
        let app = App::new().app_data(web::Data::new(limits.limiter())).app_data(subject(Plan::Free));
        let app = app.wrap(middleware::from_fn(crate::request::around)).default_service(web::to(handle));
        let answer = call_service(&init_service(app).await, TestRequest::get().to_request()).await;
        assert_eq!(answer.status(), status, "of {most}");
    }
    assert_eq!(crate::request::under_way_per_mille(usize::MAX), 0);
}

#[actix_web::test]
async fn without_redis_a_quarter_of_the_plan_is_let_through_and_nobody_waits() {
    // Nothing listens there: the address was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let counters = Counters::new(&format!("redis://{free}"), Deadlines::default()).unwrap();
    let limiter = RateLimits::new(Some(counters), Policies::parse("free=4/40,4/20").unwrap(), QUIET).limiter();
    let subject = subject(Plan::Free);
    let begun = Instant::now();
    let mut admitted = 0;
    for _ in 0..1_000 {
        admitted += u32::from(limiter.admit(&subject, 1).await.is_ok());
    }
    let allowed = 5 + 1 + u32::try_from(begun.elapsed().as_secs()).unwrap();
    assert!((5..=allowed).contains(&admitted), "{admitted}, not 5 to {allowed}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

async fn handle(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    limit(&request, *request.app_data::<Subject>().unwrap()).await?;
    raise(&request, 1, 2).await?;
    Ok(HttpResponse::Ok().finish())
}

#[actix_web::test]
async fn every_answer_says_what_is_left_also_the_one_that_refuses() {
    let limiter = web::Data::new(shared("free=1/5,1/3").await);
    let app = App::new().app_data(limiter).app_data(subject(Plan::Free));
    let app = app.wrap(middleware::from_fn(crate::request::around)).default_service(web::to(handle));
    let app = init_service(app).await;
    let answer = call_service(&app, TestRequest::get().to_request()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers().get("x-ratelimit-remaining").unwrap(), "1");
    let answer = call_service(&app, TestRequest::get().to_request()).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers().get("retry-after").unwrap(), "2");
    assert_eq!(answer.headers().get("ratelimit-policy").unwrap(), "\"tenant\";q=5;w=5, \"key\";q=3;w=3");
}

async fn large(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    limit(&request, *request.app_data::<Subject>().unwrap()).await?;
    Ok(HttpResponse::Ok().body(vec![0; 1024 * 1024]))
}

#[actix_web::test]
async fn a_large_answer_is_paid_for_once_it_is_known_and_what_it_owes_keeps_the_next_out() {
    let alone = RateLimits::new(None, Policies::parse("free=4/160,4/16").unwrap(), QUIET).limiter();
    for limiter in [shared("free=1/40,1/4").await, alone] {
        let app = App::new().app_data(web::Data::new(limiter)).app_data(subject(Plan::Free));
        let app = app.wrap(middleware::from_fn(crate::request::around)).default_service(web::to(large));
        let app = init_service(app).await;
        let answer = call_service(&app, TestRequest::get().to_request()).await;
        // Of four, one for itself and four for its size: one is owed.
        let remaining = answer.headers().get("x-ratelimit-remaining").unwrap();
        assert_eq!((answer.status(), remaining.to_str().unwrap()), (StatusCode::OK, "0"));
        assert!(answer.headers().get("ratelimit").unwrap().to_str().unwrap().contains("\"tenant\";r=35"));
        let refused = call_service(&app, TestRequest::get().to_request()).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers().get("retry-after").unwrap(), "2");
    }
}
