//! Connections: accepted at a bounded rate, each for one request and a bounded time, on a thread of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use smr::internals::lobby::{Guest, Lobby};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Surface;
use crate::process::Fatal;

/// Connections at one time. One more takes the place of another: see [`smr::internals::lobby`].
pub const CONNECTIONS_MAX: usize = 64;
/// Connections that are accepted in a second, on average; more of them wait in the kernel. So a flood takes a few
/// hundredths of a processor at most.
pub const CONNECTIONS_PER_S: u32 = 100;
/// As many may come at once after a quiet time.
const BURST_MAX: u32 = 32;
/// How long a connection may take, from its beginning to its end.
pub const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of a request, in bytes; nothing else of it is read.
pub const REQUEST_MAX_BYTES: usize = 8 << 10;
/// The most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// How long accepting pauses when it failed: without file descriptors the next call would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// An open HTTP listener. It listens until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct HttpListener {
    address: SocketAddr,
}

impl HttpListener {
    /// Shows `surface` at `listener`, from a thread of its own.
    ///
    /// # Errors
    /// If that thread, or what it listens with, is not to be had.
    pub fn open(listener: std::net::TcpListener, surface: Arc<dyn Surface>) -> Result<HttpListener, Fatal> {
        let cannot = |error: io::Error| Fatal::Failed(format!("--http_listen: {error}"));
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(cannot)?
        };
        let run = move || runtime.block_on(accept(listener, router(surface)));
        thread::Builder::new().name("http".to_owned()).spawn(run).map_err(cannot)?;
        Ok(HttpListener { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// How many connections may be accepted, by the clock.
struct Rate {
    /// When the next one would be due if they came evenly.
    due: Instant,
}

impl Rate {
    /// Takes the next one in; returns until when to wait before it.
    fn next(&mut self, now: Instant) -> Instant {
        let interval = Duration::from_secs(1) / CONNECTIONS_PER_S;
        let earliest = now.checked_sub(interval * BURST_MAX).unwrap_or(now);
        let at = self.due.max(earliest);
        self.due = at + interval;
        at
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let lobby = Lobby::new(CONNECTIONS_MAX);
    let mut rate = Rate { due: Instant::now() };
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        sleep_until(rate.next(Instant::now())).await;
        let guest = lobby.enter(Some(from.ip()));
        tokio::spawn(serve(stream, guest, router.clone()));
    }
}

async fn serve(stream: TcpStream, guest: Guest, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(REQUEST_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        biased;
        () = guest.shown_out() => {}
        ended = timeout(CONNECTION_MAX, connection) => {
            if !matches!(ended, Ok(Ok(()))) {
                tracing::debug!(?ended, "an HTTP connection broke");
            }
        }
    }
}

fn router(surface: Arc<dyn Surface>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(surface)
}

fn page(code: StatusCode, kind: &'static str, text: String) -> Response {
    (code, [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, kind)], text).into_response()
}

fn verdict(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(why) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    }
}

async fn index() -> Response {
    page(StatusCode::OK, TEXT, "/metrics\n/livez\n/readyz\n/status\n".to_owned())
}

async fn livez(State(surface): State<Arc<dyn Surface>>) -> Response {
    verdict(surface.live().await)
}

async fn readyz(State(surface): State<Arc<dyn Surface>>) -> Response {
    verdict(surface.ready().await)
}

async fn status(State(surface): State<Arc<dyn Surface>>) -> Response {
    let (code, value) = match surface.status().await {
        Ok(value) => (StatusCode::OK, value),
        Err(value) => (StatusCode::SERVICE_UNAVAILABLE, value),
    };
    page(code, JSON, format!("{value}\n"))
}

async fn metrics(State(surface): State<Arc<dyn Surface>>) -> Response {
    page(StatusCode::OK, OPENMETRICS, surface.metrics().await.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_after_a_quiet_time_a_burst_passes_at_once_and_then_one_per_interval() {
        let now = Instant::now() + Duration::from_secs(60);
        let mut rate = Rate { due: Instant::now() };
        let waits: Vec<Duration> = (0..200).map(|_| rate.next(now).saturating_duration_since(now)).collect();
        let at_once = waits.iter().filter(|wait| wait.is_zero()).count();
        assert_eq!(at_once, BURST_MAX as usize + 1);
        let rest = u32::try_from(waits.len() - at_once).unwrap();
        assert_eq!(*waits.last().unwrap(), Duration::from_secs(1) / CONNECTIONS_PER_S * rest);
    }
}
