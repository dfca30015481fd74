//! The HTTP/1.1 server under the metadata service and the API: hyper, plus every way to misbehave.

use crate::faults::Effect;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// No client of ours sends more.
const REQUEST_BODY_LIMIT: usize = 1 << 20;

/// Connections of one process are numbered from one, over all listeners.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// One request as it came.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path without query, never percent-decoded.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) peer: SocketAddr,
    pub(crate) connection: u64,
}

impl Asked {
    /// The header's value as text; `None` when absent or not text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// What to answer, and how.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) effects: Vec<Effect>,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: body.into(),
            effects: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Turns a request into an answer.
pub(crate) type Handler = Arc<dyn Fn(Asked) -> Answer + Send + Sync>;

/// Serves `listener` until the future is dropped; then every connection ends too.
pub(crate) async fn serve(listener: TcpListener, keep_alive: Arc<AtomicBool>, handler: Handler) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let keep_alive = keep_alive.load(Ordering::Relaxed);
                connections.spawn(connection(stream, peer, keep_alive, Arc::clone(&handler)));
            }
            // out of descriptors, most likely: let some connections end
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, keep_alive: bool, handler: Handler) {
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let _ = stream.set_nodelay(true);
    // A second descriptor of the same socket, to set SO_LINGER on while hyper owns the first.
    let Ok(twin) = stream.as_fd().try_clone_to_owned().map(socket2::Socket::from) else {
        return;
    };
    let twin = &twin;
    let handler = &handler;
    let service = service_fn(move |request: Request<Incoming>| async move {
        let asked = read(request, peer, number).await?;
        let answer = handler(asked);
        deliver(answer, keep_alive, twin).await
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.keep_alive(keep_alive).title_case_headers(true);
    // An error here is a client that left or a fault at work: both are everyday matters.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn read(request: Request<Incoming>, peer: SocketAddr, connection: u64) -> io::Result<Asked> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, REQUEST_BODY_LIMIT)
        .collect()
        .await
        .map_err(io::Error::other)?;
    Ok(Asked {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: body.to_bytes().to_vec(),
        peer,
        connection,
    })
}

/// An error makes hyper drop the connection without a word, which is what some effects want.
async fn deliver(answer: Answer, keep_alive: bool, socket: &socket2::Socket) -> io::Result<Response<Shaped>> {
    let Answer {
        mut status,
        mut headers,
        mut body,
        effects,
    } = answer;
    let mut shape = Shape::Whole;
    let mut decided = false;
    for effect in effects {
        match effect {
            Effect::Delay(ms) => sleep(Duration::from_millis(ms)).await,
            Effect::Header(name, value) => headers.push((name, value)),
            Effect::HugeHeader(bytes) => headers.push(("X-Filler".to_owned(), "x".repeat(bytes))),
            _ if decided => {}
            effect => {
                decided = true;
                match effect {
                    Effect::Status(code) => {
                        status = code;
                        headers = vec![("Content-Type".to_owned(), "text/html".to_owned())];
                        body = crate::imds::error_page(code).into_bytes();
                    }
                    Effect::Drip { bytes, every_ms } => {
                        shape = Shape::Drip {
                            bytes: bytes.max(1),
                            every: Duration::from_millis(every_ms),
                        };
                    }
                    Effect::Truncate(bytes) => shape = Shape::Truncated { bytes },
                    Effect::Endless => shape = Shape::Endless,
                    Effect::Reset => {
                        let _ = socket.set_linger(Some(Duration::ZERO));
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    Effect::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
                    Effect::Stall => std::future::pending().await,
                    Effect::Redirect(to) => {
                        status = 302;
                        headers.push(("Location".to_owned(), to));
                        body.clear();
                    }
                    Effect::Body(text) => (status, body) = (200, text.into_bytes()),
                    Effect::Bytes(bytes) => (status, body) = (200, bytes),
                    Effect::Delay(_)
                    | Effect::Header(..)
                    | Effect::HugeHeader(_)
                    | Effect::Throttle { .. }
                    | Effect::Exception(_) => {}
                }
            }
        }
    }
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    if !keep_alive {
        response = response.header("Connection", "close");
    }
    if let Shape::Truncated { .. } = shape {
        response = response.header("Content-Length", body.len());
    }
    response
        .body(Shaped {
            shape,
            bytes: Bytes::from(body),
            pause: None,
        })
        .map_err(io::Error::other)
}

/// How a body is sent.
enum Shape {
    Whole,
    Drip { bytes: usize, every: Duration },
    Truncated { bytes: usize },
    Endless,
}

struct Shaped {
    shape: Shape,
    bytes: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Long enough for what was written to leave before the connection is cut.
const BEFORE_THE_CUT: Duration = Duration::from_millis(30);

impl Body for Shaped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
            if matches!(self.shape, Shape::Truncated { .. }) {
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
        }
        let (size, pause) = match self.shape {
            Shape::Whole => (self.bytes.len(), None),
            Shape::Drip { bytes, every } => (bytes.min(self.bytes.len()), Some(every)),
            Shape::Truncated { bytes } => (bytes.min(self.bytes.len()), Some(BEFORE_THE_CUT)),
            Shape::Endless => return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'A'; 16_384]))))),
        };
        self.pause = pause.map(|pause| Box::pin(sleep_until(Instant::now() + pause)));
        if size == 0 {
            return match self.shape {
                // nothing to send before the cut: wait for it
                Shape::Truncated { .. } => self.poll_frame(cx),
                _ => Poll::Ready(None),
            };
        }
        let part = self.bytes.split_to(size);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.shape, Shape::Whole | Shape::Drip { .. }) && self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.shape {
            Shape::Endless => SizeHint::default(),
            _ => SizeHint::with_exact(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)),
        }
    }
}
