//! The control interface: what tests do through [`crate::Handle`], for programs that only speak HTTP.
//! `POST /_simulator/VERB` with a JSON object; `GET` for the verbs that only tell.

use crate::faults::Fault;
use crate::http::{Answer, Asked};
use crate::simulator::Handle;
use serde::Deserialize;
use serde_json::{Value, json};

/// All arguments of all verbs; each verb says which it needs.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Arguments {
    instance: Option<String>,
    user: Option<String>,
    key: Option<String>,
    caller: Option<String>,
    expires: Option<i64>,
    count: Option<u32>,
    from: Option<String>,
    to: Option<String>,
    path: Option<String>,
    text: Option<String>,
    fault: Option<Fault>,
}

pub(crate) fn answer(handle: &Handle, verb: &str, asked: &Asked) -> Answer {
    // A web page on this machine could send a form here, but not with this header.
    if asked.method == "POST" && asked.header("x-simulator").is_none() {
        return refused(403, "the control interface asks for a header X-Simulator");
    }
    let arguments: Result<Arguments, _> = match asked.body.as_slice() {
        [] => Ok(Arguments::default()),
        body => serde_json::from_slice(body),
    };
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => return refused(400, &error.to_string()),
    };
    let handle = match &arguments.instance {
        None => handle.clone(),
        Some(id) => match handle.shared.find(id) {
            Some(number) => handle.numbered(number),
            None => return refused(404, &format!("there is no instance {id}")),
        },
    };
    match act(&handle, &asked.method, verb, arguments) {
        Ok(value) => Answer::new(200, "application/json", format!("{value:#}\n")),
        Err((status, message)) => refused(status, &message),
    }
}

fn refused(status: u16, message: &str) -> Answer {
    Answer::new(
        status,
        "application/json",
        format!("{}\n", json!({ "error": message })),
    )
}

fn act(handle: &Handle, method: &str, verb: &str, arguments: Arguments) -> Result<Value, (u16, String)> {
    let need = |value: Option<String>, name: &str| value.ok_or_else(|| (400, format!("{verb} needs {name}")));
    let done = Ok(json!({}));
    match (method, verb) {
        ("GET", "instances") => Ok(handle.all().iter().map(about).collect()),
        ("GET", "requests") => Ok(json!(handle.all_requests())),
        ("GET", "trail") => Ok(json!({ "Records": handle.trail() })),
        ("POST", "push") => {
            let user = need(arguments.user, "user")?;
            let key = need(arguments.key, "key")?;
            let caller = arguments.caller.unwrap_or_else(|| crate::CALLER.to_owned());
            for _ in 1..arguments.count.unwrap_or(1) {
                handle.push_expiring(&user, &key, &caller, arguments.expires);
            }
            Ok(json!({ "requestId": handle.push_expiring(&user, &key, &caller, arguments.expires) }))
        }
        ("POST", "tamper") => {
            let user = need(arguments.user, "user")?;
            handle.tamper(&user, &need(arguments.from, "from")?, &need(arguments.to, "to")?);
            done
        }
        ("POST", "put") => {
            handle.put(&need(arguments.path, "path")?, need(arguments.text, "text")?);
            done
        }
        ("POST", "fault") => {
            let fault = arguments.fault.ok_or((400, "fault needs fault".to_owned()))?;
            handle.fault(fault);
            done
        }
        ("POST", "api-fault") => {
            let fault = arguments.fault.ok_or((400, "api-fault needs fault".to_owned()))?;
            handle.api_fault(fault);
            done
        }
        ("POST", "clear-faults") => {
            handle.clear_faults();
            done
        }
        ("POST", "clear-requests") => {
            handle.clear_requests();
            done
        }
        ("POST", "restore") => {
            handle.restore();
            done
        }
        ("POST", "expire") => {
            handle.expire_keys();
            done
        }
        ("POST", "rotate") => {
            handle.rotate();
            done
        }
        _ => Err((404, format!("there is no {method} {verb}"))),
    }
}

fn about(handle: &Handle) -> Value {
    let facts = handle.facts();
    json!({
        "instance": facts.id,
        "region": facts.region,
        "zone": facts.zone,
        "account": facts.account,
        "state": facts.state,
        "imds": handle.endpoint(),
        "api": handle.api_endpoint(),
        "config": handle.config_file(),
        "root": handle.root_pem(),
        "sysfs": handle.sysfs(),
    })
}
