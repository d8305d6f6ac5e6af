//! Mails to people: invitations, and tokens for who lost the password. They wait in memory, and are tried again where the
//! server is away; who gets none asks again.

use crate::provision::{self, ProvisionError, ResetBy};
use crate::sso::PublicUrl;
use prometheus::{IntCounterVec, register_int_counter_vec};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc};
use twh_edge::error::{ApiError, ErrorCode};
use twh_sinks::mail::{Mail, MailError, Mailer};
use twh_sinks::postgres::PgPool;
use twh_sinks::secrets::Secrets;
use twh_sinks::tasks;

/// Mails that may wait.
const WAITING_MAX: usize = 1_000;
/// Mails sent at once.
const AT_ONCE: usize = 4;
/// Pauses between the attempts at a mail.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static MAILS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("twh_mails_total", "Mails, by what became of them.", &["result"])
        .expect("the metric's name is unique")
});

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
}

/// Where letters are left.
#[derive(Clone)]
pub struct Post(Option<mpsc::Sender<Letter>>);

impl Post {
    /// No mails are sent here.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Sends what is left here, until the last of those who may leave something is gone. Mails name the API's address.
    #[must_use]
    pub fn start(mailer: Mailer, pool: PgPool, secrets: Secrets, public_url: PublicUrl) -> Self {
        let (sender, letters) = mpsc::channel(WAITING_MAX);
        let office = Arc::new(Office { mailer, pool, secrets, public_url });
        let letters = Arc::new(Mutex::new(letters));
        drop(tasks::keep("mail", "mail", move || send_all(Arc::clone(&office), Arc::clone(&letters))));
        Self(Some(sender))
    }

    /// Whether mails are sent here.
    pub(crate) const fn sends(&self) -> bool {
        self.0.is_some()
    }

    /// Invites somebody, where mails are sent; says whether a mail goes out.
    pub(crate) fn invite(&self, to: &str, tenant: &str, token: &str) -> bool {
        let Some(letters) = &self.0 else { return false };
        let letter = Letter::Invitation { to: to.to_owned(), tenant: tenant.to_owned(), token: token.to_owned() };
        let left = letters.try_send(letter).is_ok();
        if !left {
            MAILS.with_label_values(&["dropped"]).inc();
            tracing::warn!("too many mails wait: an invitation was not sent; its token is in the answer");
        }
        left
    }

    /// Sends a token to who has an address. The answer is the same whether anybody has.
    pub(crate) fn password_reset(&self, to: &str) -> Result<(), ApiError> {
        let letters = self.0.as_ref().ok_or_else(not_sent)?;
        letters.try_send(Letter::PasswordReset { to: to.to_owned() }).map_err(|_| {
            MAILS.with_label_values(&["dropped"]).inc();
            ApiError::new(ErrorCode::ServiceUnavailable, "too many mails wait").retry_after(60)
        })
    }
}

/// Why no token is mailed.
pub(crate) fn not_sent() -> ApiError {
    ApiError::new(ErrorCode::MailNotSent, "this server sends no mails; whoever runs it can make a token")
}

async fn send_all(office: Arc<Office>, letters: Arc<Mutex<mpsc::Receiver<Letter>>>) {
    let mut letters = letters.lock().await;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(letter) = letters.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let office = Arc::clone(&office);
        // Nobody waits for it: what becomes of the mail is counted, also where it panics.
        drop(tokio::spawn(async move {
            let _held = place;
            if tasks::guarded("mail_attempt", office.handle(letter)).await.is_err() {
                MAILS.with_label_values(&["failed"]).inc();
            }
        }));
    }
}

struct Office {
    mailer: Mailer,
    pool: PgPool,
    secrets: Secrets,
    public_url: PublicUrl,
}

impl Office {
    async fn handle(&self, letter: Letter) {
        let kind = match letter {
            Letter::Invitation { .. } => "invitation",
            Letter::PasswordReset { .. } => "password_reset",
        };
        let mut pauses = PAUSES.into_iter();
        let result = loop {
            match (self.attempt(&letter).await, pauses.next()) {
                (Ok(sent), _) => break if sent { "sent" } else { "nobody" },
                (Err(error), Some(pause)) if error.may_pass => {
                    tracing::warn!(kind, error = error.text, "a mail is not sent yet; trying again");
                    tokio::time::sleep(pause).await;
                }
                (Err(error), _) => {
                    tracing::error!(kind, error = error.text, "a mail is not sent and was given up");
                    break "failed";
                }
            }
        };
        MAILS.with_label_values(&[result]).inc();
    }

    /// True where there was somebody to send it to.
    async fn attempt(&self, letter: &Letter) -> Result<bool, Failed> {
        let mail = match letter {
            Letter::Invitation { to, tenant, token } => invitation(&self.public_url, to, tenant, token),
            Letter::PasswordReset { to } => {
                match provision::password_reset(&self.pool, &self.secrets, to, ResetBy::Mail).await {
                    Ok(token) => reset(&self.public_url, to, &token),
                    Err(ProvisionError::Nobody(_)) => return Ok(false),
                    Err(error) => return Err(Failed { text: error.to_string(), may_pass: true }),
                }
            }
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
