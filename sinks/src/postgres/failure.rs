//! What an error of the database is to the caller: the one place where SQLSTATEs are told apart.

use sqlx::Error;

/// Why the database did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It is away, busy or worn out: the same may work a little later.
    Away,
    /// It refuses what is in the statement, or cannot give what is stored: the same fails however often it is tried, and other
    /// data does not.
    Data,
    /// Anything else: the program, the tables or the rights are not as they must be, whatever the data is.
    Defect,
}

/// Classes of PostgreSQL's appendix A: 08 connection, 40 rolled back, 53 resources, 55 not in the state for it, 57 an operator
/// stepped in, 58 its system.
const AWAY: [&str; 6] = ["08", "40", "53", "55", "57", "58"];
/// 21 cardinality, 22 data (out of range, not representable), 23 constraints, 54 limits.
const DATA: [&str; 4] = ["21", "22", "23", "54"];
/// What a primary that was demoted says.
const READ_ONLY: &str = "25006";
const INTERNAL: &str = "XX000";
/// What PostgreSQL says, with the code of internal errors, of a value larger than it can hold (`mcxt.c`).
const TOO_LARGE: &str = "invalid memory alloc request size";

impl Failure {
    /// What an error is.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Io(_)
            | Error::Tls(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed
            | Error::BeginFailed => Self::Away,
            // Ours, of a value that is stored. What the driver does not decode is a column of another type: `ColumnDecode`.
            Error::Decode(_) | Error::Encode(_) => Self::Data,
            Error::Database(refusal) => {
                refusal.code().map_or(Self::Defect, |code| Self::of_refusal(&code, refusal.message()))
            }
            _ => Self::Defect,
        }
    }

    fn of_refusal(code: &str, message: &str) -> Self {
        let is_in = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
        if code == READ_ONLY || is_in(&AWAY) {
            Self::Away
        } else if is_in(&DATA) || (code == INTERNAL && message.starts_with(TOO_LARGE)) {
            Self::Data
        } else {
            Self::Defect
        }
    }
}

/// True when the same query may work a little later.
#[must_use]
pub fn is_away(error: &Error) -> bool {
    Failure::of(error) == Failure::Away
}

/// Serialization failure, and deadlock.
const GIVEN_UP: [&str; 2] = ["40001", "40P01"];

/// True where PostgreSQL gave a transaction up for another's sake: begun anew, it may well do.
#[must_use]
pub fn was_given_up(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|refusal| refusal.code());
    code.is_some_and(|code| GIVEN_UP.contains(&code.as_ref()))
}

/// An error for the log: with its SQLSTATE, where it has one.
#[must_use]
pub fn described(error: &Error) -> String {
    match error.as_database_error().and_then(|refusal| Some((refusal.code()?, refusal.message()))) {
        Some((code, message)) => format!("SQLSTATE {code}: {message}"),
        None => error.to_string(),
    }
}

/// Whether a query was cancelled because it took longer than it may (PostgreSQL's code 57014).
#[must_use]
pub fn took_too_long(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("57014"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_retry_mends_is_told_from_what_one_may() {
        for code in ["08006", "25006", "40001", "40P01", "53300", "55P03", "57014", "57P03", "58030"] {
            assert_eq!(Failure::of_refusal(code, ""), Failure::Away, "{code}");
        }
        for code in ["21000", "22003", "22021", "22P05", "23502", "23505", "23514", "54000"] {
            assert_eq!(Failure::of_refusal(code, ""), Failure::Data, "{code}");
        }
        // A table that is not there yet is no reason to leave anything out.
        for code in ["42P01", "42501", "28P01", "3D000", "0A000", INTERNAL, "TWH01"] {
            assert_eq!(Failure::of_refusal(code, ""), Failure::Defect, "{code}");
        }
        assert_eq!(Failure::of_refusal(INTERNAL, "invalid memory alloc request size 1073741824"), Failure::Data);
        assert_eq!(Failure::of(&Error::PoolTimedOut), Failure::Away);
        assert_eq!(Failure::of(&Error::Decode("out of range".into())), Failure::Data);
    }
}
