//! `eic-simulator`: the make-believe EC2 as a program, and a small client for its control interface.

use eic_simulator::faults::{Effect, Fault, Paths};
use eic_simulator::principals::Principals;
use eic_simulator::signer::SignerSpec;
use eic_simulator::world::{Hypervisor, Instance};
use eic_simulator::{Simulator, World};
use serde_json::json;
use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
A make-believe EC2 for the tests and the demo of ec2-instance-connect.

eic-simulator serve [OPTION...]          run until SIGTERM or SIGINT
  --state DIR             keep files here (default: a temporary directory)
  --api ADDR              AWS API and control interface (default 127.0.0.1:0)
  --principals FILE       who may push: JSON or TOML, see README.md
  --key-lifetime SECONDS  how long a pushed key lives (default 60)
  --keep-alive            keep metadata connections open
  --until-stdin-closes    end when standard input does, too
  --instance ID           an instance (repeat for more); what follows is about it:
    --imds ADDR[,ADDR...]   its metadata service (default 127.0.0.1:0)
    --region R  --zone Z  --domain D  --account N  --private-ip A  --public-ip A
    --xen                   a Xen instance, not a Nitro one
    --plain                 serve leaf and one issuer only
    --staple-hours N        its staples hold for so long (default 168)

Every other command takes --api ADDR, and --instance ID where there are several:
eic-simulator push --user USER --key FILE [--caller ARN] [--expires SECONDS] [--count N]
eic-simulator tamper --user USER --from TEXT --to TEXT
eic-simulator put --path PATH --text TEXT
eic-simulator fault (--path PATH | --prefix PATH) [--method M] [--skip N] [--times N] EFFECT
eic-simulator api-fault --path ACTION [--skip N] [--times N] EFFECT
  EFFECT: status=N delay=MS drip=BYTES,MS truncate=BYTES endless huge-header=BYTES reset close stall
          redirect=URL body=TEXT exception=NAME header=NAME:VALUE
eic-simulator restore | expire | rotate | clear-faults | clear-requests
eic-simulator instances | requests | trail
";

/// The exit status for a command line that makes no sense, as sysexits(3) would not have it but most do.
const WRONG_USAGE: u8 = 2;
/// The instance there is when nobody asks for another.
const DEFAULT_INSTANCE: &str = "i-0123456789abcdef0";
/// How long the client waits for the simulator.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match command.as_str() {
        "" | "-h" | "--help" | "help" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        "serve" => serve(rest),
        command => client(command, rest),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("eic-simulator: {message}\n\n{USAGE}");
            ExitCode::from(WRONG_USAGE)
        }
        Err(Failure::Work(message)) => {
            eprintln!("eic-simulator: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command did not do its work.
enum Failure {
    Usage(String),
    Work(String),
}

fn work(context: impl Display) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::Work(format!("{context}: {error}"))
}

/// Options one after the other.
struct Options(std::vec::IntoIter<String>);

impl Options {
    fn value<T: FromStr>(&mut self, option: &str) -> Result<T, Failure> {
        let text = self
            .0
            .next()
            .ok_or_else(|| Failure::Usage(format!("{option} needs a value")))?;
        text.parse()
            .map_err(|_| Failure::Usage(format!("{option} cannot be {text:?}")))
    }
}

// --- serve ---

fn serve(arguments: Vec<String>) -> Result<(), Failure> {
    let mut world = World::nitro(DEFAULT_INSTANCE);
    let mut named = false;
    let mut state: Option<PathBuf> = None;
    let mut until_stdin_closes = false;
    let mut options = Options(arguments.into_iter());
    while let Some(option) = options.0.next() {
        let option = option.as_str();
        match option {
            "--state" => state = Some(options.value(option)?),
            "--api" => world.api = options.value(option)?,
            "--principals" => world.principals = principals(&options.value::<PathBuf>(option)?)?,
            "--key-lifetime" => world.key_lifetime = options.value(option)?,
            "--keep-alive" => world.keep_alive = true,
            "--until-stdin-closes" => until_stdin_closes = true,
            "--instance" => {
                let id: String = options.value(option)?;
                // the first one named takes the default's place, with what was said about it before
                if named {
                    world.instances.push(Instance::new(&id));
                } else {
                    world = world.change(|i| i.id = id);
                }
                named = true;
            }
            _ => {
                let Some(instance) = world.instances.last_mut() else {
                    continue;
                };
                about_instance(instance, option, &mut options)?;
            }
        }
    }

    let simulator = match &state {
        Some(directory) => Simulator::start_in(world, directory),
        None => Simulator::start(world),
    }
    .map_err(work("cannot start"))?;
    // a comment, so that the whole output is a configuration
    let text = format!(
        "{}\n# READY api={} imds={} config={} state={}\n",
        simulator.config_toml(),
        simulator.api_endpoint(),
        simulator.endpoint(),
        simulator.config_file().display(),
        simulator.state_dir().display(),
    );
    std::io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| std::io::stdout().flush())
        .map_err(work("cannot write to standard output"))?;
    wait(until_stdin_closes).map_err(work("cannot wait for signals"))
}

fn principals(file: &Path) -> Result<Principals, Failure> {
    let text = std::fs::read_to_string(file).map_err(work(file.display()))?;
    Principals::parse(&text).map_err(|e| Failure::Work(format!("{}: {e}", file.display())))
}

fn about_instance(instance: &mut Instance, option: &str, options: &mut Options) -> Result<(), Failure> {
    match option {
        "--imds" => {
            let list: String = options.value(option)?;
            let addresses: Result<Vec<SocketAddr>, _> = list.split(',').map(str::parse).collect();
            instance.listen =
                addresses.map_err(|_| Failure::Usage(format!("{option} cannot be {list:?}")))?;
        }
        "--region" => *instance = instance.clone().region(&options.value::<String>(option)?),
        "--zone" => instance.zone = options.value(option)?,
        "--domain" => instance.domain = options.value(option)?,
        "--account" => instance.account = options.value(option)?,
        "--private-ip" => instance.private_ip = options.value(option)?,
        "--public-ip" => instance.public_ip = options.value(option)?,
        "--xen" => instance.hypervisor = Hypervisor::Xen,
        "--plain" => instance.signer = Some(SignerSpec::plain(&instance.signer_host())),
        "--staple-hours" => {
            let hours: i64 = options.value(option)?;
            let spec = instance.signer.take();
            let mut spec = spec.unwrap_or_else(|| SignerSpec::production(&instance.signer_host()));
            for single in spec
                .staples
                .iter_mut()
                .flat_map(|staple| &mut staple.response.singles)
            {
                single.next_update = Some(hours * 3600);
            }
            instance.signer = Some(spec);
        }
        _ => return Err(Failure::Usage(format!("there is no option {option}"))),
    }
    Ok(())
}

/// Returns at SIGTERM, at SIGINT, or, if asked, when standard input is at its end.
fn wait(until_stdin_closes: bool) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (closed, stdin_closed) = tokio::sync::oneshot::channel::<()>();
        let _kept = if until_stdin_closes {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                drop(closed);
            });
            None
        } else {
            Some(closed)
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = stdin_closed => {}
        }
        Ok(())
    })
}

// --- the client ---

fn client(command: &str, arguments: Vec<String>) -> Result<(), Failure> {
    let method = match command {
        "instances" | "requests" | "trail" => "GET",
        "push" | "tamper" | "put" | "fault" | "api-fault" | "restore" | "expire" | "rotate"
        | "clear-faults" | "clear-requests" => "POST",
        _ => return Err(Failure::Usage(format!("there is no command {command}"))),
    };
    let mut api: Option<String> = None;
    let mut body = serde_json::Map::new();
    let mut fault = Fault::on("", Effect::Reset);
    let mut effect: Option<Effect> = None;
    let faulty = command.ends_with("fault");
    let mut options = Options(arguments.into_iter());
    while let Some(option) = options.0.next() {
        let option = option.as_str();
        match option {
            "--api" => api = Some(options.value(option)?),
            "--path" if faulty => fault.paths = Paths::Exact(options.value(option)?),
            "--prefix" if faulty => fault.paths = Paths::Prefix(options.value(option)?),
            "--method" if faulty => fault.method = Some(options.value(option)?),
            "--skip" if faulty => fault.skip = options.value(option)?,
            "--times" if faulty => fault.times = Some(options.value(option)?),
            "--key" => {
                let file: PathBuf = options.value(option)?;
                let line = std::fs::read_to_string(&file).map_err(work(file.display()))?;
                body.insert("key".to_owned(), json!(line));
            }
            "--count" => {
                body.insert("count".to_owned(), json!(options.value::<u32>(option)?));
            }
            "--expires" => {
                body.insert("expires".to_owned(), json!(options.value::<i64>(option)?));
            }
            "--instance" | "--user" | "--caller" | "--from" | "--to" | "--path" | "--text" => {
                body.insert(
                    option.trim_start_matches('-').to_owned(),
                    json!(options.value::<String>(option)?),
                );
            }
            word if faulty && effect.is_none() => effect = Some(read_effect(word)?),
            _ => return Err(Failure::Usage(format!("{command} has no option {option}"))),
        }
    }
    if faulty {
        fault.effect = effect.ok_or_else(|| Failure::Usage(format!("{command} needs an effect")))?;
        body.insert("fault".to_owned(), json!(fault));
    }
    let api = api.ok_or_else(|| Failure::Usage(format!("{command} needs --api")))?;
    let body = if body.is_empty() {
        String::new()
    } else {
        json!(body).to_string()
    };
    let (status, answer) = ask(&api, method, command, &body).map_err(work(&api))?;
    if status != 200 {
        return Err(Failure::Work(answer.trim().to_owned()));
    }
    if answer.trim() != "{}" {
        print!("{answer}");
    }
    Ok(())
}

fn read_effect(word: &str) -> Result<Effect, Failure> {
    fn number<T: FromStr>(text: &str) -> Option<T> {
        text.parse().ok()
    }
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let effect = match name {
        "status" => number(value).map(Effect::Status),
        "delay" => number(value).map(Effect::Delay),
        "drip" => value.split_once(',').and_then(|(bytes, every)| {
            Some(Effect::Drip {
                bytes: number(bytes)?,
                every_ms: number(every)?,
            })
        }),
        "truncate" => number(value).map(Effect::Truncate),
        "endless" => Some(Effect::Endless),
        "huge-header" => number(value).map(Effect::HugeHeader),
        "reset" => Some(Effect::Reset),
        "close" => Some(Effect::Close),
        "stall" => Some(Effect::Stall),
        "redirect" => Some(Effect::Redirect(value.to_owned())),
        "body" => Some(Effect::Body(value.to_owned())),
        "throttle" => value.split_once(',').and_then(|(per_second, burst)| {
            Some(Effect::Throttle {
                per_second: number(per_second)?,
                burst: number(burst)?,
            })
        }),
        "exception" => Some(Effect::Exception(value.to_owned())),
        "header" => value
            .split_once(':')
            .map(|(name, value)| Effect::Header(name.to_owned(), value.to_owned())),
        _ => None,
    };
    effect.ok_or_else(|| Failure::Usage(format!("there is no effect {word:?}")))
}

/// One request to the control interface: status and body.
fn ask(api: &str, method: &str, verb: &str, body: &str) -> std::io::Result<(u16, String)> {
    let address = api.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} /_simulator/{verb} HTTP/1.1\r\nHost: {address}\r\nX-Simulator: cli\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}
