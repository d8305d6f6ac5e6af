//! Mails to people: invitations, and tokens for who lost the password. They wait in memory, and are tried again where the
//! server is away; who gets none asks again.
//!
//! What is tried again lies aside meanwhile, and takes no place from what can be sent. Tenants take turns with their invitations, and tokens
//! for lost passwords have places of their own.

mod queue;

use crate::provision::{self, ProvisionError, ResetBy};
use crate::sso::PublicUrl;
use queue::{Bounds, Queue};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use twh_domain::id::TenantId;
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::mail::{Mail, MailError, Mailer};
use twh_sinks::postgres::PgPool;
use twh_sinks::secrets::Secrets;
use twh_sinks::tasks;

/// Invitations that may wait, and those of one tenant.
const INVITATIONS: Bounds = Bounds { total: 1_000, of_one: 200, at_once_of_one: AT_ONCE / 2 };
/// Tokens for lost passwords: who asks for one is not known.
const RESETS: Bounds = Bounds { total: 1_000, of_one: 1_000, at_once_of_one: AT_ONCE };
/// Mails of a kind that are sent at once.
const AT_ONCE: usize = 4;
/// Pauses between the attempts at a mail.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

twh_sinks::metrics! {
    MAILS: IntCounterVec = "twh_mails_total", "Mails, by what became of them.", labels ["result"];
}

/// What somebody is to be told.
enum Letter {
    Invitation {
        to: String,
        tenant: String,
        token: String,
    },
    /// To who has the address, if anybody has.
    PasswordReset {
        to: String,
    },
    /// The same, once there is a token for it.
    NewPassword {
        to: String,
        token: String,
    },
}

impl Letter {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Invitation { .. } => "invitation",
            Self::PasswordReset { .. } | Self::NewPassword { .. } => "password_reset",
        }
    }
}

/// A letter, and how often it was tried.
struct Waiting {
    letter: Letter,
    attempts: usize,
}

/// Letters of a kind that wait, and what tells that there is something new.
struct Letterbox<S> {
    queue: Mutex<Queue<S, Waiting>>,
    changed: Notify,
}

impl<S: Ord + Copy> Letterbox<S> {
    const fn new(bounds: Bounds) -> Self {
        Self { queue: Mutex::new(Queue::new(bounds)), changed: Notify::const_new() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Queue<S, Waiting>) -> T) -> T {
        let changed = change(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
        changed
    }

    /// The next letter, once there is one.
    async fn next(&self) -> (S, Waiting) {
        loop {
            let (next, wakes_at) = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                (queue.next(Instant::now()), queue.wakes_at())
            };
            if let Some(next) = next {
                return next;
            }
            let wake = async {
                match wakes_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = wake => {}
            }
        }
    }
}

/// Where letters are left.
#[derive(Clone)]
pub struct Post(Option<Letterboxes>);

#[derive(Clone)]
struct Letterboxes {
    invitations: Arc<Letterbox<TenantId>>,
    resets: Arc<Letterbox<()>>,
}

impl Post {
    /// No mails are sent here.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Sends what is left here. Mails name the API's address.
    #[must_use]
    pub fn start(mailer: Mailer, pool: PgPool, secrets: Secrets, public_url: PublicUrl) -> Self {
        let office = Arc::new(Office { mailer, pool, secrets, public_url });
        let boxes = Letterboxes {
            invitations: Arc::new(Letterbox::new(INVITATIONS)),
            resets: Arc::new(Letterbox::new(RESETS)),
        };
        empty(&office, &boxes.invitations);
        empty(&office, &boxes.resets);
        Self(Some(boxes))
    }

    /// Whether mails are sent here.
    pub(crate) const fn sends(&self) -> bool {
        self.0.is_some()
    }

    /// Invites somebody to a tenant, where mails are sent; says whether a mail goes out.
    pub(crate) fn invite(&self, to: &str, (tenant, name): (TenantId, &str), token: &str) -> bool {
        let Some(boxes) = &self.0 else { return false };
        let letter = Letter::Invitation { to: to.to_owned(), tenant: name.to_owned(), token: token.to_owned() };
        let left = boxes.invitations.with(|queue| queue.leave(tenant, Waiting { letter, attempts: 0 }));
        if !left {
            MAILS.with_label_values(&["dropped"]).inc();
            tracing::warn!(tenant_id = %tenant, "too many mails wait: an invitation was not sent; its token is in the answer");
        }
        left
    }

    /// Sends a token to who has an address. The answer is the same whether anybody has.
    pub(crate) fn password_reset(&self, to: &str) -> Result<(), ApiError> {
        let boxes = self.0.as_ref().ok_or_else(not_sent)?;
        let letter = Letter::PasswordReset { to: to.to_owned() };
        if boxes.resets.with(|queue| queue.leave((), Waiting { letter, attempts: 0 })) {
            return Ok(());
        }
        MAILS.with_label_values(&["dropped"]).inc();
        Err(ApiError::new(ErrorCode::ServiceUnavailable, "too many mails wait").retry_after(60))
    }
}

/// Why no token is mailed.
pub(crate) fn not_sent() -> ApiError {
    ApiError::new(ErrorCode::MailNotSent, "this server sends no mails; whoever runs it can make a token")
}

/// Sends the letters of a box for as long as the process runs.
fn empty<S: Ord + Copy + Send + 'static>(office: &Arc<Office>, letters: &Arc<Letterbox<S>>) {
    let (office, letters) = (Arc::clone(office), Arc::clone(letters));
    drop(tasks::keep("mail", "mail", move || send_all(Arc::clone(&office), Arc::clone(&letters))));
}

async fn send_all<S: Ord + Copy + Send + 'static>(office: Arc<Office>, letters: Arc<Letterbox<S>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (sender, waiting) = letters.next().await;
        let (office, letters) = (Arc::clone(&office), Arc::clone(&letters));
        // Nobody waits for it: what becomes of the mail is counted, also where it panics.
        drop(tokio::spawn(async move {
            let became = tasks::guarded("mail_attempt", office.handle(waiting)).await;
            drop(place);
            match became {
                Ok(Became::Over(result)) => {
                    MAILS.with_label_values(&[result]).inc();
                    letters.with(|queue| queue.done(sender));
                }
                Ok(Became::Again(waiting, pause)) => {
                    let at = Instant::now() + pause;
                    letters.with(|queue| queue.again(sender, waiting, at));
                }
                Err(_) => {
                    MAILS.with_label_values(&["failed"]).inc();
                    letters.with(|queue| queue.done(sender));
                }
            }
        }));
    }
}

/// What became of an attempt.
enum Became {
    Over(&'static str),
    Again(Waiting, Duration),
}

struct Office {
    mailer: Mailer,
    pool: PgPool,
    secrets: Secrets,
    public_url: PublicUrl,
}

impl Office {
    async fn handle(&self, mut waiting: Waiting) -> Became {
        let kind = waiting.letter.kind();
        match (self.attempt(&mut waiting.letter).await, PAUSES.get(waiting.attempts)) {
            (Ok(sent), _) => Became::Over(if sent { "sent" } else { "nobody" }),
            (Err(error), Some(pause)) if error.may_pass => {
                tracing::warn!(kind, error = error.text, "a mail is not sent yet; trying again");
                waiting.attempts += 1;
                Became::Again(waiting, *pause)
            }
            (Err(error), _) => {
                tracing::error!(kind, error = error.text, "a mail is not sent and was given up");
                Became::Over("failed")
            }
        }
    }

    /// True where there was somebody to send it to.
    async fn attempt(&self, letter: &mut Letter) -> Result<bool, Failed> {
        if let Letter::PasswordReset { to } = letter {
            match provision::password_reset(&self.pool, &self.secrets, to, ResetBy::Mail).await {
                Ok(token) => *letter = Letter::NewPassword { to: std::mem::take(to), token },
                Err(ProvisionError::Nobody(_)) => return Ok(false),
                Err(error) => return Err(Failed { text: error.to_string(), may_pass: true }),
            }
        }
        let mail = match letter {
            Letter::Invitation { to, tenant, token } => invitation(&self.public_url, to, tenant, token),
            Letter::NewPassword { to, token } => reset(&self.public_url, to, token),
            Letter::PasswordReset { .. } => return Ok(false),
        };
        let sent = self.mailer.send(&mail).await;
        sent.map(|()| true)
            .map_err(|error| Failed { may_pass: matches!(error, MailError::Later(_)), text: error.to_string() })
    }
}

struct Failed {
    text: String,
    may_pass: bool,
}

fn invitation(public_url: &PublicUrl, to: &str, tenant: &str, token: &str) -> Mail {
    let url = public_url.at("/v1/auth/invitations/accept");
    // A name is another's word: on a line of its own it cannot pass for ours.
    let text = format!(
        "You are invited to join an organization of The Warehouse Hub:\n\n    {tenant}\n\n\
         To accept, within seven days:\n\n\
         POST {url}\n{{\"token\": \"{token}\", \"name\": \"<your name>\", \"password\": \"<a password>\"}}\n\n\
         If you expected no invitation, ignore this mail.\n"
    );
    Mail { to: to.to_owned(), subject: "You are invited to The Warehouse Hub".to_owned(), text }
}

fn reset(public_url: &PublicUrl, to: &str, token: &str) -> Mail {
    let url = public_url.at("/v1/auth/password-reset");
    let text = format!(
        "Somebody, probably you, asked for a new password at The Warehouse Hub.\n\n\
         To set one, within the hour:\n\n\
         POST {url}\n{{\"token\": \"{token}\", \"password\": \"<the new password>\"}}\n\n\
         All of your sessions end then. If it was not you, ignore this mail: the password stays as it is.\n"
    );
    Mail { to: to.to_owned(), subject: "A new password".to_owned(), text }
}
