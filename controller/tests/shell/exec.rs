//! Logs and exec through a tunnel, with an agent that is played here.

use std::time::Duration;

use dwell_proto::v1;
use dwell_proto::v1::exec_input::Input;
use dwell_proto::v1::exec_output::Output;
use dwell_proto::v1::tunnel_up::Message as Up;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::fixture::{Agent, Fixture, SOON};
use crate::tunnel_end::{AgentEnd, asked, with_instance};

fn request(instance: &str) -> v1::ExecInput {
    let request = v1::ExecRequest {
        instance: instance.to_owned(),
        command: vec!["cat".to_owned()],
        stdin: true,
        ..Default::default()
    };
    v1::ExecInput { input: Some(Input::Request(request)) }
}

fn output(output: Output) -> Up {
    Up::Exec(v1::ExecOutput { output: Some(output) })
}

async fn input_of(end: &mut AgentEnd) -> Option<Input> {
    end.input().await.map(|message| message.exec.unwrap().input.unwrap())
}

/// Begins an exec and answers it as the agent.
async fn exec(
    fixture: &Fixture,
    agent: &mut Agent,
) -> (mpsc::Sender<v1::ExecInput>, Streaming<v1::ExecOutput>, AgentEnd) {
    let (input, messages) = mpsc::channel(4);
    input.send(request("web-0")).await.unwrap();
    let mut fleet = fixture.fleet().await;
    let call = tokio::spawn(async move { fleet.exec(ReceiverStream::new(messages)).await });
    let open = asked(agent).await;
    assert!(matches!(open.purpose, Some(v1::open_tunnel::Purpose::Exec(_))));
    let end = AgentEnd::carry(agent, &open.tunnel).await.unwrap();
    (input, call.await.unwrap().unwrap().into_inner(), end)
}

#[tokio::test]
async fn frames_go_both_ways_until_the_exit_code() {
    let (fixture, mut agent) = with_instance().await;
    let (input, mut outputs, mut end) = exec(&fixture, &mut agent).await;

    end.send(output(Output::Started(true))).await;
    input.send(v1::ExecInput { input: Some(Input::Stdin("hello".into())) }).await.unwrap();
    assert_eq!(input_of(&mut end).await, Some(Input::Stdin("hello".into())));
    let size = |columns| v1::TerminalSize { columns, rows: 24 };
    input.send(v1::ExecInput { input: Some(Input::Resize(size(u32::MAX))) }).await.unwrap();
    assert_eq!(input_of(&mut end).await, Some(Input::Resize(size(10_000))));
    drop(input);
    assert_eq!(input_of(&mut end).await, Some(Input::StdinClosed(true)));
    end.send(output(Output::Stdout("hello".into()))).await;
    end.send(output(Output::ExitCode(3))).await;

    let mut seen = Vec::new();
    while let Some(message) = outputs.message().await.unwrap() {
        seen.push(message.output.unwrap());
    }
    assert_eq!(seen, [Output::Started(true), Output::Stdout("hello".into()), Output::ExitCode(3)]);
    assert_eq!(input_of(&mut end).await, None, "the tunnel outlives the command");
}

#[tokio::test]
async fn a_tunnel_is_for_the_node_that_was_asked_and_only_once() {
    let (fixture, mut agent) = with_instance().await;
    let mut other = fixture.agent("h2", "192.0.2.2").await;
    let mut fleet = fixture.fleet().await;
    let logs = v1::LogsRequest { instance: "web-0".to_owned(), follow: true, ..Default::default() };
    let call = tokio::spawn(async move { fleet.logs(logs).await });
    let open = asked(&mut agent).await;
    assert_eq!(
        AgentEnd::carry(&mut other, &open.tunnel).await.err().unwrap().code(),
        Code::NotFound
    );
    assert_eq!(AgentEnd::carry(&mut agent, "guessed").await.err().unwrap().code(), Code::NotFound);
    let end = AgentEnd::carry(&mut agent, &open.tunnel).await.unwrap();
    assert_eq!(
        AgentEnd::carry(&mut agent, &open.tunnel).await.err().unwrap().code(),
        Code::NotFound
    );

    let mut stream = call.await.unwrap().unwrap().into_inner();
    let chunk = v1::LogsChunk { stream: v1::OutputStream::Stdout.into(), data: "line\n".into() };
    end.send(Up::Logs(chunk.clone())).await;
    assert_eq!(stream.message().await.unwrap(), Some(chunk));
    drop(end.up);
    assert_eq!(stream.message().await.unwrap(), None);
}

#[tokio::test]
async fn an_agents_error_reaches_the_client() {
    let (fixture, mut agent) = with_instance().await;
    let (_input, mut outputs, end) = exec(&fixture, &mut agent).await;
    let message = "no such command\u{1b}[2J".to_owned();
    end.send(Up::Error(v1::TunnelError { code: Code::NotFound.into(), message })).await;
    let status = outputs.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such command [2J"));
}

#[tokio::test]
async fn when_one_side_goes_so_does_the_other() {
    let (fixture, mut agent) = with_instance().await;
    let (input, outputs, mut end) = exec(&fixture, &mut agent).await;
    drop((input, outputs));
    while input_of(&mut end).await.is_some() {}

    let (_input, mut outputs, end) = exec(&fixture, &mut agent).await;
    drop(end);
    let status = tokio::time::timeout(SOON, outputs.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer() {
    let (fixture, mut agent) = with_instance().await;
    let (_input, mut outputs, end) = exec(&fixture, &mut agent).await;
    let block: tonic::codegen::Bytes = vec![7; 64 * 1024].into();
    let mut sent = 0_usize;
    // Nobody reads: before long nothing more can be sent.
    while let Ok(()) = tokio::time::timeout(
        Duration::from_millis(500),
        end.send(output(Output::Stdout(block.clone()))),
    )
    .await
    {
        sent += block.len();
        assert!(sent < 16 << 20, "{sent} bytes are buffered somewhere");
    }
    let mut received = 0;
    while received < sent {
        match outputs.message().await.unwrap().unwrap().output.unwrap() {
            Output::Stdout(data) => received += data.len(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let (fixture, agent) = with_instance().await;
    let mut fleet = fixture.fleet().await;
    let logs =
        |instance: &str| v1::LogsRequest { instance: instance.to_owned(), ..Default::default() };
    assert_eq!(fleet.logs(logs("web-9")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(fleet.logs(logs("web")).await.unwrap_err().code(), Code::InvalidArgument);
    let empty = v1::ExecInput { input: Some(Input::Stdin("x".into())) };
    let status = fleet.exec(tokio_stream::iter([empty])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    drop(agent);
    let look = async {
        loop {
            let status = fleet.logs(logs("web-0")).await.unwrap_err();
            if status.message().contains("not connected") {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(SOON * 2, look).await.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
}
