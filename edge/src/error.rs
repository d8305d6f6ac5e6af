//! Errors as clients see them: one table of codes, each with its status, what it means and what to do.

use crate::openapi::code_schema;
use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt;
use twh_domain::outcome::Refusal;
use twh_sinks::postgres::failure::took_too_long;
use twh_sinks::postgres::failure::{is_away, was_given_up};

/// Most details that an answer tells.
const DETAILS_MAX: usize = 100;
/// Where the pages of the codes stand.
pub(crate) const ERROR_PAGES: &str = "/docs/errors";

macro_rules! codes {
    ($($variant:ident $status:literal $name:literal $meaning:literal $remedy:literal)*) => {
        /// Every code that an answer can carry.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is documented by its row of the table")]
        pub enum ErrorCode { $($variant,)* }

        impl ErrorCode {
            /// The whole table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }
            /// What to do.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Self::$variant => $remedy,)* } }
            const fn number(self) -> u16 { match self { $(Self::$variant => $status,)* } }
        }
    };
}

codes! {
    MalformedJson 400 "MALFORMED_JSON" "The body is not JSON." "Mend the syntax at the line and column named."
    InvalidQuery 400 "INVALID_QUERY" "A query parameter is unknown or has a value that it cannot have." "Mend the parameter named; take cursors from the answer before, unchanged."
    IdempotencyKeyRequired 400 "IDEMPOTENCY_KEY_REQUIRED" "The request changes something and has no Idempotency-Key." "Send a key of your own, new for each thing you want done, the same for each retry of it."
    IdempotencyKeyInvalid 400 "IDEMPOTENCY_KEY_INVALID" "The Idempotency-Key is not 1 to 255 visible ASCII characters, or begins with system/." "Send another key: a UUID will do."
    InvalidIfMatch 400 "INVALID_IF_MATCH" "If-Match is not one strong ETag as we send them." "Send the ETag header of the resource as you got it, such as \"3\"."
    InvalidPosition 400 "INVALID_POSITION" "X-TWH-At-Least is not a position, or one of a partition where the tenant has no commands." "Send what X-TWH-Position said, unchanged."
    InvalidTenantId 400 "INVALID_TENANT_ID" "X-Tenant-ID is not a UUID." "Send the id of a tenant that you belong to, or leave it out."
    Unauthenticated 401 "UNAUTHENTICATED" "There is no API key or access token, or none that is good now." "Send Authorization: Bearer with a valid one; the message says what is wrong with this one."
    InvalidCredentials 401 "INVALID_CREDENTIALS" "The address and the password do not belong together." "Try again, or have the password set anew."
    InvalidToken 401 "INVALID_TOKEN" "The refresh token, invitation or reset token is not known, was used, or has expired." "Sign in again, or ask for another."
    SignOnNotOpen 401 "SIGN_ON_NOT_OPEN" "The sign-on is not known, has ended, has expired, or was begun in another browser." "Begin again at the provider's start address, in the same browser, with cookies."
    SignOnFailed 401 "SIGN_ON_FAILED" "What the identity provider says cannot be believed." "Begin again; if it stays, show the message to an admin of the tenant."
    SignOnDenied 403 "SIGN_ON_DENIED" "The identity provider refuses the person, or the tenant has no role for it." "Ask an admin of the tenant, or whoever runs the identity provider, for access."
    Forbidden 403 "FORBIDDEN" "The caller is known, and may not do this." "The details name the scopes of which one is needed; ask an admin of the tenant for a key or role that has it."
    SandboxOnly 403 "SANDBOX_ONLY" "This works for sandbox tenants only." "Use a key of the tenant's sandbox: it begins with twh_test_."
    IpNotAllowed 403 "IP_NOT_ALLOWED" "The API key may not be used from this address." "Call from a network on the key's list, or make a key for this one."
    NotFound 404 "NOT_FOUND" "What the path names does not exist for you." "Check the id, and that the key belongs to the right tenant."
    RouteNotFound 404 "ROUTE_NOT_FOUND" "There is no such path." "See the reference for the paths there are."
    MethodNotAllowed 405 "METHOD_NOT_ALLOWED" "The path does not take this method." "The Allow header names those it takes."
    RequestTimeout 408 "REQUEST_TIMEOUT" "The body took too long to arrive." "Send it again, faster; retry with the same Idempotency-Key."
    Duplicate 409 "DUPLICATE" "A code, number or barcode is taken, or the person belongs to the tenant already." "Use another, or the resource that has it."
    IllegalTransition 409 "ILLEGAL_TRANSITION" "The document's status does not allow the action." "Read the document again and see where it stands."
    InsufficientStock 409 "INSUFFICIENT_STOCK" "Less is available than asked for; nothing was done." "The details name each short line, what was requested and what is available."
    QuantityExceeded 409 "QUANTITY_EXCEEDED" "More than the line has left to ship, receive or return." "The details name the line and its limit."
    EmailTaken 409 "EMAIL_TAKEN" "The address has an account." "Sign in with it; an invitation adds a tenant to it."
    LastAdmin 409 "LAST_ADMIN" "The tenant would have no admin." "Make somebody else an admin first."
    KeyNotActive 409 "KEY_NOT_ACTIVE" "The API key was revoked, rotated or has expired." "Make a new one."
    LimitReached 409 "LIMIT_REACHED" "The tenant has as many of these as it may have." "Delete one that is not needed, or ask for a higher limit."
    EventGone 409 "EVENT_GONE" "The event is kept no longer, so it cannot be sent again." "Read the document that it was about."
    PreconditionFailed 412 "PRECONDITION_FAILED" "The resource has changed since you read it." "Read it again, decide again, and send its new ETag."
    BodyTooLarge 413 "BODY_TOO_LARGE" "The body is larger than the server takes." "Split the request."
    UnsupportedMediaType 415 "UNSUPPORTED_MEDIA_TYPE" "The body is not declared as what the endpoint takes." "Send Content-Type: application/json; for a form, application/x-www-form-urlencoded."
    ValidationFailed 422 "VALIDATION_FAILED" "The body is JSON, but not what this endpoint takes." "The details name each field and what is wrong with it."
    UnknownReference 422 "UNKNOWN_REFERENCE" "The body names an item, location or other document that does not exist." "The details name the field."
    UnknownLine 422 "UNKNOWN_LINE" "The document has no line of this number." "Read the document and use its line numbers."
    ItemNotStocked 422 "ITEM_NOT_STOCKED" "The item is a service and holds no stock." "Leave the line out."
    QuantityOutOfRange 422 "QUANTITY_OUT_OF_RANGE" "A quantity or level would have more than 12 digits before the point." "Check the quantity and the item's unit."
    DocumentTooLarge 422 "DOCUMENT_TOO_LARGE" "A document would be longer than one may be." "Split it: the details say how long it may be. Shorten its metadata or its texts, or give it fewer lines."
    OutputTooLarge 422 "OUTPUT_TOO_LARGE" "The documents that the command writes would be too long together." "Send fewer operations in one atomic batch, or fewer commands in one request."
    IdempotencyKeyMismatch 422 "IDEMPOTENCY_KEY_MISMATCH" "The Idempotency-Key was used for another request." "Send a new key for a new request."
    PreconditionRequired 428 "PRECONDITION_REQUIRED" "The request must say which version it is meant for." "Send If-Match with the resource's ETag."
    TooManyAttempts 429 "TOO_MANY_ATTEMPTS" "Too many attempts failed on the account or from this address, too many unknown keys or tokens came from it, too many people signed up from it, or too many mails were asked for." "Wait for the seconds in Retry-After."
    RateLimited 429 "RATE_LIMITED" "The tenant or the API key has sent more than its plan allows, or has as much in flight as it may at once; nothing was done." "Retry with the same Idempotency-Key after the seconds in Retry-After; the RateLimit header says what is left."
    Internal 500 "INTERNAL" "Something is wrong on our side." "Retry with the same Idempotency-Key; if it stays, tell us the request id."
    IdentityProviderUnavailable 502 "IDENTITY_PROVIDER_UNAVAILABLE" "The tenant's identity provider does not answer, or not as one." "Try again; if it stays, an admin of the tenant checks its issuer and its secret."
    CommandLogUnavailable 503 "COMMAND_LOG_UNAVAILABLE" "The command could not be stored durably now." "Retry with the same Idempotency-Key after the seconds in Retry-After."
    CheckpointsNotSigned 503 "CHECKPOINTS_NOT_SIGNED" "This server has no key to sign checkpoints of ledgers with." "Ask whoever runs it to set TWH_LEDGER_KEY_FILE."
    LedgerHalted 503 "LEDGER_HALTED" "The part of the ledger that has your tenant stands still until its operator has looked at it: the log of commands has lost records." "Retry with the same Idempotency-Key after the seconds in Retry-After: it is decided once, whichever attempt was stored."
    MailNotSent 501 "MAIL_NOT_SENT" "This server sends no mails." "Ask whoever runs it for a token, or to set TWH_SMTP_URL."
    Overloaded 503 "OVERLOADED" "Too much is under way: commands, passwords that are checked, large answers that are read, or as much as your plan may share in." "Retry with the same Idempotency-Key after the seconds in Retry-After."
    PositionNotReached 503 "POSITION_NOT_REACHED" "The ledger has not applied the position that the read asks for." "Retry after the seconds in Retry-After, or read without it."
    ServiceUnavailable 503 "SERVICE_UNAVAILABLE" "A part that the answer needs is away." "Retry after the seconds in Retry-After."
}

impl ErrorCode {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.number()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The path of its page of the documentation.
    #[must_use]
    pub fn page(self) -> String {
        format!("{ERROR_PAGES}/{}", self.name())
    }

    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// What a status means that was set below our code.
    fn from_status(status: StatusCode) -> Self {
        match status.as_u16() {
            404 => Self::RouteNotFound,
            405 => Self::MethodNotAllowed,
            413 => Self::BodyTooLarge,
            415 => Self::UnsupportedMediaType,
            400..=499 => Self::MalformedJson,
            _ => Self::Internal,
        }
    }
}

/// The body of every error.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody {
    /// Stable: what to branch on.
    #[schemars(schema_with = "code_schema")]
    code: &'static str,
    /// For people; may change.
    message: String,
    /// What was wrong, and where.
    #[schemars(with = "Vec<Map<String, Value>>")]
    details: Value,
    /// Finds the request in our logs.
    request_id: String,
    /// The page that says what the code means and what to do, on the same host.
    docs: String,
}

/// An error answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    details: Value,
    retry_after_seconds: Option<u32>,
    allow: Option<String>,
    /// PostgreSQL gave the transaction up for another's sake.
    given_up: bool,
}

impl ApiError {
    /// An error with a message for the client.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: json!([]),
            retry_after_seconds: None,
            allow: None,
            given_up: false,
        }
    }

    /// With what was wrong, where: a JSON array, of which the first hundred are told.
    #[must_use]
    pub fn details(mut self, mut details: Value) -> Self {
        if let Some(all) = details.as_array_mut().filter(|all| all.len() > DETAILS_MAX) {
            self.message = format!("{} (the details are the first {DETAILS_MAX} of {})", self.message, all.len());
            all.truncate(DETAILS_MAX);
        }
        self.details = details;
        self
    }

    /// With the time after which a retry makes sense.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// With the methods that the path takes.
    #[must_use]
    pub fn allow(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// A defect of ours: logged whole, told to the client only as such.
    pub fn internal(error: impl fmt::Display) -> Self {
        tracing::error!(%error, "internal error");
        Self::new(ErrorCode::Internal, "something is wrong on our side")
    }

    /// A part that the answer needs is away: logged whole, told to the client only as such.
    pub fn unavailable(error: impl fmt::Display) -> Self {
        tracing::warn!(%error, "a part that an answer needs is away");
        Self::new(ErrorCode::ServiceUnavailable, "a part that the answer needs is away").retry_after(1)
    }

    /// A query that failed: a retry makes sense where the database is away, and only there.
    pub fn database(error: sqlx::Error) -> Self {
        if took_too_long(&error) {
            tracing::warn!(%error, "a query took too long");
            let message = "the answer takes too long to look up: ask for less, or narrow it with filters";
            return Self::new(ErrorCode::ServiceUnavailable, message).retry_after(2);
        }
        let given_up = was_given_up(&error);
        let error = if is_away(&error) { Self::unavailable(error) } else { Self::internal(error) };
        Self { given_up, ..error }
    }

    /// True where the same transaction, begun anew, may well do.
    pub(crate) const fn was_given_up(&self) -> bool {
        self.given_up
    }

    /// What the path names does not exist for the caller.
    #[must_use]
    pub fn not_found(noun: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {noun}"))
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Value {
        let body = ErrorBody {
            code: self.code.name(),
            message: self.message.clone(),
            details: self.details.clone(),
            request_id: request_id.to_owned(),
            docs: self.code.page(),
        };
        serde_json::to_value(body).unwrap_or_default()
    }

    /// The answer.
    #[must_use]
    pub fn response(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        if let Some(seconds) = self.retry_after_seconds {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if self.code == ErrorCode::Unauthenticated {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(methods) = &self.allow {
            response.insert_header(("Allow", methods.as_str()));
        }
        response.json(self.body(request_id))
    }

    /// The error of an answer that failed below our code (a connection, a payload, a path).
    pub(crate) fn from_status(status: StatusCode, reason: &str) -> Self {
        let code = ErrorCode::from_status(status);
        if code == ErrorCode::Internal { Self::internal(reason) } else { Self::new(code, reason) }
    }
}

impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> Self {
        let code = ErrorCode::from_name(&refusal.code).unwrap_or(ErrorCode::Internal);
        Self::new(code, refusal.message.clone())
            .details(serde_json::from_str(&refusal.details).unwrap_or_else(|_| json!([])))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }
    // The middleware writes it anew, with the request's id.
    fn error_response(&self) -> HttpResponse {
        self.response("")
    }
}

/// The table as a page of the documentation.
#[must_use]
pub fn to_markdown() -> String {
    let mut page = String::from(
        "# Errors\n\nEvery error answer has the same shape:\n\n```json\n{\"code\": \"INSUFFICIENT_STOCK\", \"message\": \"not enough stock is available\", \
         \"details\": [{\"line\": 1, \"sku\": \"WIDGET\", \"requested\": \"7\", \"available\": \"3\"}], \"request_id\": \"0193…\", \"docs\": \"/docs/errors/INSUFFICIENT_STOCK\"}\n```\n\n\
         `code` is stable, `message` is for people and may change, `details` says what was wrong and where, `request_id` finds it in our logs, `docs` is the page that says what to do, on the same host.\n\n\
         | code | status | meaning | what to do |\n|---|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        page.push_str(&format!("| `{}` | {} | {} | {} |\n", code.name(), code.number(), code.meaning(), code.remedy()));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use twh_domain::decimal::Quantity;
    use twh_domain::entity::EntityKind;
    use twh_domain::rejection::Rejection;

    #[test]
    fn every_refusal_of_the_rules_has_a_row() {
        let kind = EntityKind::Item;
        let refusals = [
            Rejection::Invalid(vec![]),
            Rejection::NotFound(kind),
            Rejection::UnknownReference { field: String::new(), kind },
            Rejection::UnknownLine { line: 1 },
            Rejection::Duplicate { kind, field: "sku", value: String::new() },
            Rejection::IllegalTransition { kind, status: "draft", action: "shipped" },
            Rejection::InsufficientStock(vec![]),
            Rejection::QuantityExceeded { line: 1, requested: Quantity::ZERO, limit: Quantity::ZERO },
            Rejection::NotStocked { field: String::new(), sku: String::new() },
            Rejection::OutOfRange,
            Rejection::VersionMismatch { expected: 1, actual: 2 },
            Rejection::IdempotencyMismatch,
        ];
        for refusal in refusals {
            assert!(ErrorCode::from_name(refusal.code()).is_some(), "{}", refusal.code());
        }
    }

    #[test]
    fn a_refusal_tells_the_first_hundred_of_its_details_and_how_many_there_are() {
        let details = |count: usize| Value::Array((0..count).map(|line| json!({ "line": line })).collect());
        let told = |count| ApiError::new(ErrorCode::ValidationFailed, "wrong").details(details(count)).body("");
        assert_eq!((&told(100)["message"], told(100)["details"].as_array().unwrap().len()), (&json!("wrong"), 100));
        let many = told(1_000);
        assert_eq!(many["details"].as_array().unwrap().len(), 100);
        assert_eq!(many["message"], "wrong (the details are the first 100 of 1000)");
    }

    #[test]
    fn the_page_of_errors_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, to_markdown()).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == to_markdown(),
            "docs/errors.md is not current: run the tests with UPDATE_DOCS=1"
        );
    }
}
