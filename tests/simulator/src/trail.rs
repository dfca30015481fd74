//! CloudTrail: each push, allowed or denied, becomes an event in a `{"Records":[…]}` file.

use crate::clock;
use crate::principals::{Kind, Principal};
use crate::state::uuid;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// A call of `SendSSHPublicKey`, allowed or not.
pub(crate) struct Event<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) region: &'a str,
    /// What the client sent.
    pub(crate) input: &'a Value,
    pub(crate) source: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) request_id: &'a str,
    /// Exception and message, if it was refused.
    pub(crate) refused: Option<(&'a str, &'a str)>,
}

/// The events and the file that holds them.
pub(crate) struct Trail {
    path: PathBuf,
    records: Vec<Value>,
}

impl Trail {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self {
            path,
            records: Vec::new(),
        }
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        self.records.clone()
    }

    /// Writes the file in place of the old one, so that a reader never sees half of it.
    pub(crate) fn append(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.records.push(event.to_json());
        let draft = self.path.with_extension("json.new");
        std::fs::write(&draft, format!("{:#}\n", json!({ "Records": self.records })))?;
        std::fs::rename(draft, &self.path)
    }
}

impl Event<'_> {
    fn to_json(&self) -> Value {
        let mut event = json!({
            "eventVersion": "1.08",
            "userIdentity": identity(self.principal),
            "eventTime": clock::iso8601(clock::now()),
            "eventSource": "ec2-instance-connect.amazonaws.com",
            "eventName": "SendSSHPublicKey",
            "awsRegion": self.region,
            "sourceIPAddress": self.source,
            "userAgent": self.agent,
            "requestParameters": {
                "instanceId": self.input.get("InstanceId"),
                "osUser": self.input.get("InstanceOSUser"),
                "SSHKey": { "publicKey": self.input.get("SSHPublicKey") },
            },
            "responseElements": null,
            "requestID": self.request_id,
            "eventID": uuid(),
            "readOnly": false,
            "eventType": "AwsApiCall",
            "managementEvent": true,
            "recipientAccountId": self.principal.account(),
            "eventCategory": "Management",
        });
        if let Some((name, message)) = self.refused {
            let denied = name == "AccessDeniedException";
            event["errorCode"] = json!(if denied { "AccessDenied" } else { name });
            event["errorMessage"] = json!(message);
            if denied {
                event["requestParameters"] = Value::Null;
            }
        }
        event
    }
}

fn identity(principal: &Principal) -> Value {
    let base = |kind: &str| {
        json!({
            "type": kind,
            "principalId": principal.unique_id(),
            "arn": principal.arn,
            "accountId": principal.account(),
            "accessKeyId": principal.access_key_id,
        })
    };
    let with = |mut value: Value, name: &str, more: Value| {
        value[name] = more;
        value
    };
    match principal.kind() {
        Kind::User(name) => with(base("IAMUser"), "userName", json!(name)),
        Kind::AssumedRole { role, .. } => {
            let issuer = json!({
                "type": "Role",
                "principalId": principal.unique_id().split(':').next(),
                "arn": format!("arn:aws:iam::{}:role/{role}", principal.account()),
                "accountId": principal.account(),
                "userName": role,
            });
            let attributes =
                json!({ "creationDate": clock::iso8601(clock::now()), "mfaAuthenticated": "false" });
            with(
                base("AssumedRole"),
                "sessionContext",
                json!({ "sessionIssuer": issuer, "attributes": attributes }),
            )
        }
        Kind::Federated(_) => base("FederatedUser"),
        Kind::Root => base("Root"),
    }
}
