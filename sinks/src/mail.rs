//! Mails, by SMTP.

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use std::time::Duration;

/// How long the server may take for a mail.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no mail.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server's URL, or whom mails are from, is not usable.
    #[error("{0}")]
    Settings(String),
    /// The mail is none: its address is not one that mails go to.
    #[error("the mail cannot be written: {0}")]
    Unsound(String),
    /// The server is away, or wants it later.
    #[error("the mail is not taken now: {0}")]
    Later(#[source] smtp::Error),
    /// The server will not have it, or cannot be given it: an address beyond ASCII, say, where it takes none.
    #[error("the mail is refused: {0}")]
    Refused(#[source] smtp::Error),
}

/// A mail of plain text.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Whose address.
    pub to: String,
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub text: String,
}

/// Sends mails.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// Mails by a server such as `smtps://user:password@mail.example.com` or, with STARTTLS,
    /// `smtp://mail.example.com:587?tls=required`, from someone such as `Stock <stock@example.com>`. Does not connect.
    pub fn new(url: &str, from: &str) -> Result<Self, MailError> {
        let settings = |what: &str, error: String| MailError::Settings(format!("{what}: {error}"));
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .map_err(|error| settings("the server's URL is not usable", error.to_string()))?;
        let from = from.parse().map_err(|error: lettre::address::AddressError| {
            settings("mails are from nobody that they can be from", error.to_string())
        })?;
        Ok(Self { transport: transport.timeout(Some(DEADLINE)).build(), from })
    }

    /// Hands a mail to the server.
    pub async fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let to: Address = mail.to.parse().map_err(|error| MailError::Unsound(format!("{error}")))?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&mail.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(mail.text.clone())
            .map_err(|error| MailError::Unsound(error.to_string()))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if may_pass(&error) => Err(MailError::Later(error)),
            Err(error) => Err(MailError::Refused(error)),
        }
    }
}

/// True where the same may do later: the server says so (4xx), it is away or slow, or it broke off.
fn may_pass(error: &smtp::Error) -> bool {
    let is_final = error.is_permanent() || error.is_client() || error.is_tls() || error.is_transport_shutdown();
    error.is_timeout() || !is_final
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    /// A server that says this of a recipient; where it says nothing, it breaks off.
    async fn server(of_recipient: &'static str) -> Mailer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (connection, _) = listener.accept().await.unwrap();
            let mut connection = BufReader::new(connection);
            connection.write_all(b"220 here\r\n").await.unwrap();
            let mut line = String::new();
            while connection.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                let answer = if line.starts_with("RCPT") { of_recipient } else { "250 ok" };
                if answer.is_empty() || connection.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
        Mailer::new(&url, "Stock <stock@example.com>").unwrap()
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again() {
        let mail = |to: &str| Mail { to: to.to_owned(), subject: "s".to_owned(), text: "t".to_owned() };
        for (to, of_recipient, later) in [
            ("a@b.example", "451 come again", true),
            ("a@b.example", "", true),
            ("a@b.example", "550 no", false),
            ("jürgen@b.example", "250 ok", false),
        ] {
            let refused = server(of_recipient).await.send(&mail(to)).await.unwrap_err();
            assert_eq!(matches!(refused, MailError::Later(_)), later, "{to} {of_recipient}: {refused}");
        }
        let nobody = Mailer::new("smtp://127.0.0.1:1", "Stock <stock@example.com>").unwrap();
        assert!(matches!(nobody.send(&mail("a@b.example")).await, Err(MailError::Later(_))));
    }

    // The pool of connections looks after itself in the background.
    #[tokio::test]
    async fn what_cannot_send_is_told_at_once() {
        let from = "Stock <stock@example.com>";
        for url in ["smtp://127.0.0.1:2525", "smtps://u:p@mail.example.com", "smtp://mail.example.com:587?tls=required"]
        {
            assert!(Mailer::new(url, from).is_ok(), "{url}");
        }
        for (url, from) in [("http://x", from), ("mail.example.com", from), ("smtp://x", ""), ("smtp://x", "stock")] {
            assert!(matches!(Mailer::new(url, from), Err(MailError::Settings(_))), "{url} {from}");
        }
    }
}
