//! One conversation with the metadata service: a token, then GETs that carry it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{DATE, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url};
use ring::rand::SecureRandom as _;
use tokio::time::Instant;

use super::limits;
use crate::config::{Endpoint, Imds};
use crate::reason::{Reason, Refusal};

/// The link-local address of the service, IPv4 ("Instance metadata" in the EC2 user guide).
const IPV4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// The same, IPv6: opt-in per instance, on Nitro, in IPv6 subnets.
const IPV6: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    80,
);

const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

/// A session with the metadata service. Cloning shares it.
#[derive(Clone)]
pub struct Session {
    client: Client,
    address: SocketAddr,
    /// The service at that address: each request has another path alone, so it is parsed once.
    root: Url,
    token: HeaderValue,
    request_timeout: Duration,
    deadline: Instant,
    requests: Arc<AtomicU32>,
    /// The last answer's `Date`, kept as it came: a login has no use for it.
    date: Arc<Mutex<Option<HeaderValue>>>,
}

/// Why a single exchange gave no document.
enum Failure {
    /// No packet can be sent to that address at all.
    NoRoute(Refusal),
    /// Worth another try: the connection was dropped, or the service is throttling or ill.
    Passing(Refusal),
    /// Final.
    Lasting(Refusal),
}

impl Failure {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::NoRoute(refusal) | Self::Passing(refusal) | Self::Lasting(refusal) => refusal,
        }
    }
}

impl Session {
    /// Opens a session: one PUT for the token, on IPv4, then on IPv6 where IPv4 has no route and `config`
    /// does not say which.
    ///
    /// # Errors
    /// One of the `imds-…` reasons.
    pub async fn open(config: &Imds, deadline: Instant) -> Result<Self, Refusal> {
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .http1_max_headers(limits::MAX_HEADERS)
            // The service closes after each answer; a connection that it might have kept is a retry that would not be ours.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| Refusal::new(Reason::Internal, format!("no HTTP client: {error}")))?;
        let requests = Arc::new(AtomicU32::new(0));
        let mut last = None;
        for address in Self::addresses(&config.endpoint) {
            let mut session = Self {
                client: client.clone(),
                address: *address,
                root: root(*address)?,
                token: HeaderValue::from_static(""),
                request_timeout: config.request_timeout,
                deadline,
                requests: Arc::clone(&requests),
                date: Arc::default(),
            };
            match session.fetch_token().await {
                Ok(token) => {
                    session.token = token;
                    return Ok(session);
                }
                Err(Failure::NoRoute(refusal)) => last = Some(refusal),
                Err(failure) => return Err(failure.into_refusal()),
            }
        }
        Err(last.unwrap_or_else(|| Refusal::new(Reason::ImdsUnreachable, "no metadata address")))
    }

    /// The addresses that [`Session::open`] tries, in that order.
    #[must_use]
    pub fn addresses(endpoint: &Endpoint) -> &[SocketAddr] {
        match endpoint {
            Endpoint::Auto => &[IPV4, IPV6],
            Endpoint::Ipv4 => &[IPV4],
            Endpoint::Ipv6 => &[IPV6],
            Endpoint::At(address) => std::slice::from_ref(address),
        }
    }

    /// How many requests were sent so far, the token's and repeated ones among them.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The address that answered.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service's clock, as the last answer's `Date` header gave it (RFC 9110 §6.6.1), if it did. Unproven, and
    /// for people alone: nothing is decided by it.
    #[must_use]
    pub fn date(&self) -> Option<String> {
        let date = self.date.lock().ok()?;
        date.as_ref()?.to_str().ok().map(str::to_owned)
    }

    /// Fetches the document at `path`, of at most `limit` bytes. `None` is a 404.
    ///
    /// # Errors
    /// One of the `imds-…` reasons.
    pub(super) async fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        match self.persist(Method::GET, path, (TOKEN, &self.token), limit).await {
            Ok((StatusCode::NOT_FOUND, _)) => Ok(None),
            Ok((_, body)) => Ok(Some(body)),
            Err(failure) => Err(failure.into_refusal()),
        }
    }

    async fn fetch_token(&self) -> Result<HeaderValue, Failure> {
        let lifetime = HeaderValue::from_static(limits::TOKEN_TTL_SECONDS);
        let (status, body) = self
            .persist(
                Method::PUT,
                "/latest/api/token",
                (TOKEN_TTL, &lifetime),
                limits::MAX_TOKEN_BYTES,
            )
            .await?;
        if status == StatusCode::NOT_FOUND {
            let detail = format!("{} has no session tokens: it is not IMDSv2", self.address);
            return Err(Failure::Lasting(Refusal::new(Reason::ImdsStatus, detail)));
        }
        let visible = !body.is_empty() && body.iter().all(u8::is_ascii_graphic);
        let mut token = HeaderValue::from_bytes(&body)
            .ok()
            .filter(|_| visible)
            .ok_or_else(|| {
                Failure::Lasting(Refusal::new(
                    Reason::ImdsMalformed,
                    "the session token is not one word",
                ))
            })?;
        token.set_sensitive(true);
        Ok(token)
    }

    /// One exchange, and more after pauses where a failure may pass and time allows.
    async fn persist(
        &self,
        method: Method,
        path: &str,
        header: (HeaderName, &HeaderValue),
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let mut tried = 0_u32;
        loop {
            let outcome = self.exchange(method.clone(), path, header.clone(), limit).await;
            let Err(Failure::Passing(refusal)) = outcome else {
                return outcome;
            };
            let retries = match refusal.reason {
                Reason::ImdsThrottled => limits::THROTTLED_RETRIES,
                _ => limits::RETRIES,
            };
            let pause = retry_pause().saturating_mul(tried.saturating_add(1));
            let resume = Instant::now().checked_add(pause);
            let resume = resume.filter(|resume| tried < retries && *resume < self.deadline);
            let Some(resume) = resume else {
                return Err(Failure::Passing(refusal));
            };
            tokio::time::sleep_until(resume).await;
            tried = tried.saturating_add(1);
        }
    }

    /// One exchange. Only 200 and 404 come back as success.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        header: (HeaderName, &HeaderValue),
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (name, value) = header;
        let mut url = self.root.clone();
        url.set_path(path);
        let sent = self
            .client
            .request(method, url)
            .header(name, value)
            .timeout(self.request_timeout)
            .send();
        let mut response = sent.await.map_err(|error| self.explain(path, &error))?;
        let status = response.status();
        if let (Some(date), Ok(mut kept)) = (response.headers().get(DATE), self.date.lock()) {
            *kept = Some(date.clone());
        }
        if status != StatusCode::OK {
            return judge_status(status, path).map(|()| (status, Vec::new()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.explain(path, &error))?
        {
            if body.len().saturating_add(chunk.len()) > limit {
                let detail = format!("{path} is larger than {limit} bytes");
                return Err(Failure::Lasting(Refusal::new(Reason::ImdsTooLarge, detail)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }

    /// What a transport error means.
    fn explain(&self, path: &str, error: &reqwest::Error) -> Failure {
        let at = self.address;
        if error.is_timeout() {
            let detail = format!("{at} did not answer {path} in time");
            return Failure::Lasting(Refusal::new(Reason::ImdsTimeout, detail));
        }
        let root = root_cause(error);
        if cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse_too_large) {
            let detail = format!("{at} answered {path} with too many or too long headers");
            return Failure::Lasting(Refusal::new(Reason::ImdsTooLarge, detail));
        }
        if cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
            let detail = format!("{at} answered {path} with what is not HTTP: {root}");
            return Failure::Lasting(Refusal::new(Reason::ImdsMalformed, detail));
        }
        let refusal = Refusal::new(Reason::ImdsUnreachable, format!("{at} {path}: {root}"));
        match cause::<std::io::Error>(error).map(std::io::Error::kind) {
            Some(std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable) => {
                Failure::NoRoute(refusal)
            }
            _ => Failure::Passing(refusal),
        }
    }
}

/// The service at an address.
fn root(address: SocketAddr) -> Result<Url, Refusal> {
    Url::parse(&format!("http://{address}"))
        .map_err(|error| Refusal::new(Reason::Internal, format!("no URL of {address}: {error}")))
}

/// What a status other than 200 means; 404 is an answer.
fn judge_status(status: StatusCode, path: &str) -> Result<(), Failure> {
    let refusal = |reason| {
        Refusal::new(
            reason,
            format!("{path} was answered with status {}", status.as_u16()),
        )
    };
    match status {
        StatusCode::NOT_FOUND => Ok(()),
        StatusCode::FORBIDDEN => Err(Failure::Lasting(refusal(Reason::ImdsForbidden))),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Err(Failure::Passing(refusal(Reason::ImdsThrottled)))
        }
        other if other.is_server_error() => Err(Failure::Passing(refusal(Reason::ImdsStatus))),
        _ => Err(Failure::Lasting(refusal(Reason::ImdsStatus))),
    }
}

/// A pause within [`limits::RETRY_PAUSE`]; the shortest where the system has no randomness to give.
fn retry_pause() -> Duration {
    let (least, most) = limits::RETRY_PAUSE;
    let mut random = [0_u8; 1];
    if ring::rand::SystemRandom::new().fill(&mut random).is_err() {
        return least;
    }
    let [random] = random;
    least.saturating_add(
        most.saturating_sub(least)
            .mul_f64(f64::from(random) / f64::from(u8::MAX)),
    )
}

/// The first error of type `T` in the chain of causes.
fn cause<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// The innermost cause, which says what happened; the outer ones only say where.
fn root_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .unwrap_or(error)
}
