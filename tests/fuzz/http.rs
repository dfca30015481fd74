//! HTTP as a metadata service might speak it. The input is its answers, divided by the line `%%`: to the token, the keys,
//! region, domain, certificates, list of staples, staples. Where one is missing, a sound one is given.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ec2_instance_connect::config::{Config, Endpoint};
use ec2_instance_connect::imds::{Session, limits};
use ec2_instance_connect::request::LoginName;
use tokio::time::Instant;

/// Less than the pause before a retry, so that no input is given twice and none is slow.
const DEADLINE: Duration = Duration::from_millis(45);

static ANSWERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// What comes through is within its limits, whatever was answered. Gives the number of documents.
pub fn http(data: &[u8]) -> usize {
    static SERVICE: OnceLock<SocketAddr> = OnceLock::new();
    let address = *SERVICE.get_or_init(serve);
    *ANSWERS.lock().expect("no panic under the lock") =
        super::parts(data).into_iter().map(<[u8]>::to_vec).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let mut imds = Config::default().imds;
    imds.endpoint = Endpoint::At(address);
    imds.request_timeout = DEADLINE;
    runtime.expect("a runtime").block_on(async {
        let deadline = Instant::now() + DEADLINE;
        let Ok(session) = Session::open(&imds, deadline).await else {
            return 0;
        };
        let user = LoginName::new("ec2-user").expect("it is one");
        let Ok(Some(keys)) = session.active_keys(&user).await else {
            return 0;
        };
        assert!(!keys.is_empty() && keys.len() <= limits::MAX_KEYS_BYTES);
        let Ok(documents) = session.signer_documents(true).await else {
            return 1;
        };
        let longest = [
            documents.signer_cert.len(),
            documents.region.len(),
            documents.domain.len(),
        ];
        assert!(
            longest
                .into_iter()
                .all(|length| length <= limits::MAX_DOCUMENT_BYTES)
        );
        let staples = session
            .staples(documents.staple_names.iter().take(limits::MAX_STAPLES).cloned())
            .await
            .arrived;
        assert!(
            staples
                .iter()
                .all(|(_, staple)| staple.len() <= limits::MAX_DOCUMENT_BYTES)
        );
        // Six documents in three tries each, and the staples up to the first that fails.
        assert!(session.requests() <= 36, "{} requests", session.requests());
        2 + staples.len()
    })
}

/// Starts the service, which answers until the process ends.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream);
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    stream.set_read_timeout(Some(DEADLINE))?;
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..read]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let place = match request.split(' ').nth(1).unwrap_or_default() {
        path if path.ends_with("/token") => 0,
        path if path.contains("/active-keys/") => 1,
        path if path.contains("/region") => 2,
        path if path.contains("/domain") => 3,
        path if path.contains("/signer-cert") => 4,
        path if path.ends_with("/signer-ocsp/") => 5,
        _ => 6,
    };
    let given = ANSWERS
        .lock()
        .expect("no panic under the lock")
        .get(place)
        .cloned();
    let sound = || b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".to_vec();
    let answer = given.filter(|answer| !answer.is_empty()).unwrap_or_else(sound);
    stream.write_all(&answer)?;
    stream.shutdown(Shutdown::Write)
}
