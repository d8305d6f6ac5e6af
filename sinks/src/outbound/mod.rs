//! Requests to addresses that customers give: they must never reach what only this network is meant to reach (server-side
//! request forgery).
//!
//! The rule is held where the connection is made: a name is resolved once, addresses that are not globally routable are dropped,
//! and what is left is connected to. A name that means something else a moment later (DNS rebinding) is of no use. Redirects are
//! not followed, and environment proxies are not used. A connection is kept for another request only where its owner asks for
//! that: it leads to an address that was admitted when it was made.

use ipnet::IpNet;
pub use reqwest::Identity;
pub use reqwest::Method;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take as a whole, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a kept connection may stand idle, and how many of them to one host.
const CONNECTION_IDLE: Duration = Duration::from_secs(30);
const CONNECTIONS_IDLE_MAX: usize = 32;
/// Longest URL that is taken.
pub const URL_LENGTH_MAX: usize = 2_048;

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The URL is not one that is called.
    #[error("the URL {0}")]
    Url(&'static str),
    /// No address of the host may be called.
    #[error("the host has no address that may be called")]
    Refused,
    /// The other side cannot be reached, or says nothing in time.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The answer is longer than it may be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// There is no client: a defect, or an operating system without root certificates.
    #[error("no client can be made: {0}")]
    Client(String),
}

/// Which addresses may be called.
#[derive(Debug, Clone)]
struct Rule {
    /// Networks that may be called although they are not global.
    allowed: Arc<Vec<IpNet>>,
    /// Whether global addresses may be called too.
    global: bool,
}

impl Rule {
    fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.iter().any(|network| network.contains(&address)) || (self.global && is_global(address))
    }

    fn client(&self, secure: bool) -> ClientBuilder {
        Client::builder()
            .dns_resolver(Arc::new(self.clone()))
            .redirect(Policy::none())
            .no_proxy()
            .https_only(secure)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent("twh")
    }

    fn lasting(&self, secure: bool) -> ClientBuilder {
        self.client(secure).pool_idle_timeout(CONNECTION_IDLE).pool_max_idle_per_host(CONNECTIONS_IDLE_MAX)
    }

    fn admitted(&self, addresses: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, Forbidden> {
        let admitted: Vec<_> = addresses.filter(|address| self.admits(address.ip())).collect();
        if admitted.is_empty() { Err(Forbidden) } else { Ok(admitted) }
    }
}

/// Nothing is left of what a name resolves to.
#[derive(Debug)]
struct Forbidden;

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address of the host may be called")
    }
}

impl std::error::Error for Forbidden {}

impl Resolve for Rule {
    fn resolve(&self, name: Name) -> Resolving {
        let rule = self.clone();
        Box::pin(async move {
            // The client puts the port in place of 0.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Addrs = Box::new(rule.admitted(found)?.into_iter());
            Ok(addresses)
        })
    }
}

#[derive(Debug, Clone)]
struct Guarded {
    client: Client,
    /// Keeps connections for a while.
    lasting: Client,
    rule: Rule,
}

impl Guarded {
    fn new(allowed: Arc<Vec<IpNet>>, secure: bool) -> Result<Self, OutboundError> {
        let rule = Rule { allowed, global: secure };
        let client =
            rule.client(secure).timeout(REQUEST_TIMEOUT).pool_max_idle_per_host(0).build().map_err(no_client)?;
        let lasting = rule.lasting(secure).build().map_err(no_client)?;
        Ok(Self { client, lasting, rule })
    }
}

/// Calls what customers name. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbound {
    secure: Guarded,
    /// For `http`: to allowed networks only.
    plain: Guarded,
}

/// Where many requests go, over connections that are kept for a while. Each says for itself how long it may take.
#[derive(Debug, Clone)]
pub struct Target {
    client: Client,
}

impl Target {
    /// A request to the URL that it was made for.
    pub fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Outbound {
    /// Calls global addresses by `https`, and by `https` or `http` these networks.
    pub fn new(allowed: Vec<IpNet>) -> Result<Self, OutboundError> {
        let allowed = Arc::new(allowed);
        Ok(Self { secure: Guarded::new(Arc::clone(&allowed), true)?, plain: Guarded::new(allowed, false)? })
    }

    fn guarded(&self, url: &Url) -> Result<&Guarded, OutboundError> {
        match url.scheme() {
            "https" => Ok(&self.secure),
            "http" if !self.plain.rule.allowed.is_empty() => Ok(&self.plain),
            _ => Err(OutboundError::Url("must begin with https://")),
        }
    }

    /// A URL that may be called, as far as it can be told without asking the DNS.
    pub fn check(&self, text: &str) -> Result<Url, OutboundError> {
        if text.len() > URL_LENGTH_MAX {
            return Err(OutboundError::Url("is too long"));
        }
        let url = Url::parse(text).map_err(|_| OutboundError::Url("is not one"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(OutboundError::Url("must have no user, no password and no fragment"));
        }
        let rule = &self.guarded(&url)?.rule;
        let admitted = match url.host() {
            // The resolver decides.
            Some(Host::Domain(_)) => true,
            // The client asks no resolver for these.
            Some(Host::Ipv4(address)) => rule.admits(address.into()),
            Some(Host::Ipv6(address)) => rule.admits(address.into()),
            None => false,
        };
        if admitted { Ok(url) } else { Err(OutboundError::Refused) }
    }

    /// What calls a URL that was checked, again and again; with a client certificate, over connections of its own.
    pub fn target(&self, url: &Url, identity: Option<Identity>) -> Result<Target, OutboundError> {
        let guarded = self.guarded(url)?;
        let client = match identity {
            None => guarded.lasting.clone(),
            Some(identity) => {
                guarded.rule.lasting(url.scheme() == "https").identity(identity).build().map_err(no_client)?
            }
        };
        Ok(Target { client })
    }

    /// A request to a URL that may be called.
    pub fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, OutboundError> {
        let url = self.check(url)?;
        Ok(self.guarded(&url)?.client.request(method, url))
    }

    /// Sends a request, and reads the answer up to a number of bytes.
    pub async fn send(&self, request: RequestBuilder, bytes_max: usize) -> Result<Answer, OutboundError> {
        let response = request.send().await?;
        Ok(Answer { status: response.status().as_u16(), body: body(response, bytes_max).await? })
    }
}

/// Reads the body of an answer up to a number of bytes; of a longer one no more than that is kept.
pub async fn body(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, OutboundError> {
    let mut kept = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if kept.len().saturating_add(chunk.len()) > bytes_max {
            return Err(OutboundError::TooLong(bytes_max));
        }
        kept.extend_from_slice(&chunk);
    }
    Ok(kept)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn no_client(error: reqwest::Error) -> OutboundError {
    OutboundError::Client(error.to_string())
}

impl From<reqwest::Error> for OutboundError {
    fn from(error: reqwest::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        let mut last = error.to_string();
        while let Some(one) = cause {
            if one.is::<Forbidden>() {
                return Self::Refused;
            }
            last = one.to_string();
            cause = one.source();
        }
        // The last cause says what is wrong; the first repeats the URL.
        Self::Unreachable(last)
    }
}

/// True for an address that is reached over the public Internet (the IANA registries of special-purpose addresses, RFC 6890).
#[must_use]
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..]                    // this network, private, loopback
            | [100, 64..=127, ..]             // carrier-grade NAT (RFC 6598)
            | [169, 254, ..]                  // link-local, and the metadata of clouds
            | [172, 16..=31, ..]
            | [192, 168, ..]                  // private
            | [192, 0, 0 | 2, _]              // protocol assignments, documentation
            | [192, 88, 99, _]                // 6to4 relays (RFC 7526)
            | [198, 18 | 19, ..]              // benchmarks (RFC 2544)
            | [198, 51, 100, _]
            | [203, 0, 113, _]                // documentation (RFC 5737)
            | [224..=255, ..] // multicast, reserved, broadcast
    )
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_global_v4(mapped);
    }
    match address.segments() {
        // NAT64 (RFC 6052) leads to the address in its end.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            is_global_v4(Ipv4Addr::new(a, b, c, d))
        }
        [0x2001, 0..=0x1ff, ..]               // protocol assignments, Teredo among them
        | [0x2001, 0xdb8, ..]                 // documentation (RFC 3849)
        | [0x2002, ..]                        // 6to4: retired, and it holds any IPv4 address
        | [0x3fff, 0..=0xfff, ..] => false,   // documentation (RFC 9637)
        // Global unicast; outside are loopback, link-local, unique-local, multicast, local NAT64, what is IPv4-compatible.
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests;
