//! What the fake answers to each call.

use super::*;

#[tonic::async_trait]
impl Fleet for Service {
    async fn get_restore(
        &self,
        _: Request<v1::GetRestoreRequest>,
    ) -> Answer<v1::GetRestoreResponse> {
        answer(v1::GetRestoreResponse::default())
    }

    async fn confirm_restore(
        &self,
        _: Request<v1::ConfirmRestoreRequest>,
    ) -> Answer<v1::ConfirmRestoreResponse> {
        answer(v1::ConfirmRestoreResponse::default())
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let request = request.into_inner();
        let plans = request.workloads.iter().map(|spec| v1::WorkloadPlan {
            workload: spec.name.clone(),
            action: v1::workload_plan::Action::Create.into(),
            generation: 1,
            created: (0..spec.replicas).map(|ordinal| format!("{}-{ordinal}", spec.name)).collect(),
            ..Default::default()
        });
        let plans = plans.collect();
        let revision = self.asked(format!(
            "apply dry_run={} keep={}",
            request.dry_run,
            request.keep_replicas.join(",")
        ))?;
        answer(v1::ApplyResponse { plans, revision })
    }

    async fn list_workloads(
        &self,
        request: Request<v1::ListWorkloadsRequest>,
    ) -> Answer<v1::ListWorkloadsResponse> {
        let (name, state) = (request.into_inner().name, self.state()?);
        let workloads = state
            .workloads
            .iter()
            .filter(|workload| named(&workload.spec.as_ref().unwrap().name, &name))
            .cloned();
        answer(v1::ListWorkloadsResponse {
            workloads: workloads.collect(),
            revision: state.revision,
            next_page_token: String::new(),
        })
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let (wanted, state) = (request.into_inner(), self.state()?);
        let wanted_here = |instance: &&v1::Instance| {
            named(&instance.name, &wanted.name) && named(&instance.workload, &wanted.workload)
        };
        let begin: usize = wanted.page_token.parse().unwrap_or(0);
        // Fewer than are asked for, as a controller may do.
        let size = if wanted.page_size > 0 { 2 } else { usize::MAX };
        let all: Vec<_> = state.instances.iter().filter(wanted_here).cloned().collect();
        let page = all.iter().skip(begin).take(size).cloned().collect();
        let end = begin.saturating_add(size);
        let next_page_token = if end < all.len() { end.to_string() } else { String::new() };
        answer(v1::ListInstancesResponse {
            instances: page,
            revision: state.revision,
            next_page_token,
        })
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Answer<v1::ListNodesResponse> {
        let (name, state) = (request.into_inner().name, self.state()?);
        let nodes = state.nodes.iter().filter(|node| named(&node.name, &name)).cloned();
        answer(v1::ListNodesResponse {
            nodes: nodes.collect(),
            revision: state.revision,
            next_page_token: String::new(),
        })
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Answer<v1::ListEventsResponse> {
        let state = self.state()?;
        let limit = usize::try_from(request.into_inner().limit).unwrap();
        let newest = &state.events[state.events.len().saturating_sub(limit)..];
        answer(v1::ListEventsResponse { events: newest.to_vec(), revision: state.revision })
    }

    async fn list_routes(
        &self,
        _: Request<v1::ListRoutesRequest>,
    ) -> Answer<v1::ListRoutesResponse> {
        let route = v1::Route {
            prefix: "10.80.1.0/24".into(),
            node: "h1".into(),
            via: "10.66.0.1".into(),
            instance: String::new(),
        };
        answer(v1::ListRoutesResponse { routes: vec![route], revision: 1 })
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Answer<v1::ListVersionsResponse> {
        let version = v1::Version {
            number: 1,
            template: Some(v1::Template {
                image: request.into_inner().workload,
                ..Default::default()
            }),
            state: v1::VersionState::Good.into(),
            ..Default::default()
        };
        answer(v1::ListVersionsResponse { versions: vec![version], revision: 1 })
    }

    async fn roll_back(
        &self,
        request: Request<v1::RollBackRequest>,
    ) -> Answer<v1::RollBackResponse> {
        let v1::RollBackRequest { workload, to, .. } = request.into_inner();
        let revision = self.asked(format!("roll back {workload} to {to}"))?;
        let action = v1::workload_plan::Action::Update.into();
        let plan = v1::WorkloadPlan { workload, action, generation: 1, ..Default::default() };
        answer(v1::RollBackResponse { plan: Some(plan), revision })
    }

    async fn set_paused(
        &self,
        request: Request<v1::SetPausedRequest>,
    ) -> Answer<v1::SetPausedResponse> {
        let v1::SetPausedRequest { workload, paused } = request.into_inner();
        let revision = self.asked(format!("pause {workload}: {paused}"))?;
        answer(v1::SetPausedResponse { revision })
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Answer<v1::PromoteResponse> {
        self.asked(format!("promote {}", request.into_inner().workload))?;
        answer(v1::PromoteResponse { revision: 1 })
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Answer<v1::AbortResponse> {
        self.asked(format!("abort {}", request.into_inner().workload))?;
        answer(v1::AbortResponse::default())
    }

    async fn remove_workload(
        &self,
        request: Request<v1::RemoveWorkloadRequest>,
    ) -> Answer<v1::RemoveWorkloadResponse> {
        let revision = self.asked(format!("remove {}", request.into_inner().name))?;
        answer(v1::RemoveWorkloadResponse { revision })
    }

    async fn scale_workload(
        &self,
        request: Request<v1::ScaleWorkloadRequest>,
    ) -> Answer<v1::ScaleWorkloadResponse> {
        let request = request.into_inner();
        let revision = self.asked(format!("scale {}={}", request.name, request.replicas))?;
        answer(v1::ScaleWorkloadResponse { revision })
    }

    async fn scale_workloads(
        &self,
        request: Request<v1::ScaleWorkloadsRequest>,
    ) -> Answer<v1::ScaleWorkloadsResponse> {
        let scales = request.into_inner().workloads;
        if scales.iter().any(|scale| scale.replicas > 10_000) {
            return Err(Status::invalid_argument("more than 10000 instances"));
        }
        let scales = scales.iter().map(|scale| format!(" {}={}", scale.name, scale.replicas));
        let revision = self.asked(format!("scale{}", scales.collect::<String>()))?;
        answer(v1::ScaleWorkloadsResponse { revision })
    }

    async fn move_instances(
        &self,
        request: Request<v1::MoveInstancesRequest>,
    ) -> Answer<v1::MoveInstancesResponse> {
        let v1::MoveInstancesRequest { names, to, new_address, dry_run, .. } = request.into_inner();
        let new = if new_address { " new-address" } else { "" };
        let revision = self.asked(format!("move {} to={to} {dry_run}{new}", names.join(",")))?;
        let moved = |instance| v1::InstanceMove {
            instance,
            from: "h1".into(),
            to: if to.is_empty() { "h2".into() } else { to.clone() },
        };
        let moves = names.into_iter().map(moved).collect();
        answer(v1::MoveInstancesResponse { moves, revision })
    }

    async fn replace_instances(
        &self,
        request: Request<v1::ReplaceInstancesRequest>,
    ) -> Answer<v1::ReplaceInstancesResponse> {
        let names = request.into_inner().names.join(",");
        let revision = self.asked(format!("replace instances {names}"))?;
        answer(v1::ReplaceInstancesResponse { revision })
    }

    async fn rebuild_instances(
        &self,
        request: Request<v1::RebuildInstancesRequest>,
    ) -> Answer<v1::RebuildInstancesResponse> {
        let names = request.into_inner().names.join(",");
        let revision = self.asked(format!("rebuild instances {names}"))?;
        answer(v1::RebuildInstancesResponse { revision })
    }

    async fn dissociate_instances(
        &self,
        request: Request<v1::DissociateInstancesRequest>,
    ) -> Answer<v1::DissociateInstancesResponse> {
        let names = request.into_inner().names.join(",");
        let revision = self.asked(format!("dissociate instances {names}"))?;
        answer(v1::DissociateInstancesResponse { revision })
    }

    async fn adopt_instances(
        &self,
        request: Request<v1::AdoptInstancesRequest>,
    ) -> Answer<v1::AdoptInstancesResponse> {
        let names = request.into_inner().names.join(",");
        let revision = self.asked(format!("adopt instances {names}"))?;
        answer(v1::AdoptInstancesResponse { revision })
    }

    async fn adopt_container(
        &self,
        request: Request<v1::AdoptContainerRequest>,
    ) -> Answer<v1::AdoptContainerResponse> {
        let v1::AdoptContainerRequest { node, container, workload, dry_run } = request.into_inner();
        let asked =
            format!("adopt container {container} on {node} as={workload} dry_run={dry_run}");
        let revision = self.asked(asked)?;
        let template = v1::Template { image: "shop:1".into(), ..Default::default() };
        let spec = v1::WorkloadSpec {
            name: if workload.is_empty() { container.clone() } else { workload },
            replicas: 1,
            template: Some(template.clone()),
            ..Default::default()
        };
        let found = v1::Foreign {
            container_id: "c1".into(),
            name: container,
            template: Some(template),
            ..Default::default()
        };
        answer(v1::AdoptContainerResponse {
            container: Some(found),
            workload: Some(spec),
            image: String::new(),
            revision,
        })
    }

    async fn remove_instances(
        &self,
        request: Request<v1::RemoveInstancesRequest>,
    ) -> Answer<v1::RemoveInstancesResponse> {
        let names = request.into_inner().names.join(",");
        let revision = self.asked(format!("remove instances {names}"))?;
        answer(v1::RemoveInstancesResponse { revision })
    }

    async fn resize_instance(
        &self,
        request: Request<v1::ResizeInstanceRequest>,
    ) -> Answer<v1::ResizeResponse> {
        let v1::ResizeInstanceRequest { instance, cpu_millicores, memory_bytes, reset, .. } =
            request.into_inner();
        let revision = self.asked(format!(
            "resize {instance} alone cpu={cpu_millicores:?} memory={memory_bytes:?} reset={reset}"
        ))?;
        answer(v1::ResizeResponse { plan: None, revision })
    }

    async fn resize(&self, request: Request<v1::ResizeRequest>) -> Answer<v1::ResizeResponse> {
        let revision = self.asked(format!("{:?}", request.into_inner()))?;
        answer(v1::ResizeResponse { plan: None, revision })
    }

    async fn set_run_state(
        &self,
        request: Request<v1::SetRunStateRequest>,
    ) -> Answer<v1::SetRunStateResponse> {
        let request = request.into_inner();
        let revision = self.asked(format!("{:?} {}", request.run(), request.name))?;
        answer(v1::SetRunStateResponse { revision })
    }

    async fn restart(&self, request: Request<v1::RestartRequest>) -> Answer<v1::RestartResponse> {
        let revision = self.asked(format!("restart {}", request.into_inner().name))?;
        answer(v1::RestartResponse { revision })
    }

    type LogsStream = Answers<v1::LogsChunk>;

    /// One line on each stream; lines without end while following.
    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let chunk = |stream: v1::OutputStream, text: &'static str| {
            Ok(v1::LogsChunk { stream: stream.into(), data: text.into() })
        };
        let lines = vec![
            chunk(v1::OutputStream::Stdout, "to stdout\n"),
            chunk(v1::OutputStream::Stderr, "to stderr\n"),
        ];
        if request.into_inner().follow {
            answer(Box::pin(tokio_stream::iter(lines.into_iter().cycle())))
        } else {
            answer(Box::pin(tokio_stream::iter(lines)))
        }
    }

    type ExecStream = Answers<v1::ExecOutput>;

    /// Runs `cat`: what comes in goes out; then ends with 3. Sizes are shown as they come.
    async fn exec(&self, request: Request<Streaming<v1::ExecInput>>) -> Answer<Self::ExecStream> {
        let mut inputs = request.into_inner();
        let (outputs, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            let send = async |output| {
                drop(outputs.send(Ok(v1::ExecOutput { output: Some(output) })).await);
            };
            while let Some(Ok(input)) = inputs.next().await {
                match input.input.unwrap() {
                    Input::Request(request) => {
                        send(Output::Started(true)).await;
                        if let Some(size) = request.size {
                            let text = format!("size {}x{}\n", size.columns, size.rows);
                            send(Output::Stdout(text.into())).await;
                        }
                        if !request.stdin {
                            send(Output::Stderr(request.command.join(" ").into())).await;
                            break;
                        }
                    }
                    // Ctrl-D of a terminal in raw mode.
                    Input::Stdin(data) if data.as_ref() == b"\x04" => break,
                    Input::Stdin(data) => send(Output::Stdout(data)).await,
                    Input::StdinClosed(_) => break,
                    Input::Resize(size) => {
                        let text = format!("resized {}x{}\n", size.columns, size.rows);
                        send(Output::Stdout(text.into())).await;
                    }
                }
            }
            send(Output::ExitCode(3)).await;
        });
        answer(Box::pin(ReceiverStream::new(answers)))
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        answer(v1::CreateJoinTokenResponse {
            token: "dwell1.secret.digest".into(),
            expires_at_ms: 1_769_860_800_000,
            controller: "10.0.0.1:7443".into(),
        })
    }

    async fn change_node_blocks(
        &self,
        request: Request<v1::ChangeNodeBlocksRequest>,
    ) -> Answer<v1::ChangeNodeBlocksResponse> {
        use v1::change_node_blocks_request::Change;
        let v1::ChangeNodeBlocksRequest { node, change } = request.into_inner();
        let (word, block) = match change {
            Some(Change::Add(block)) => ("add", block),
            Some(Change::Retire(block)) => ("retire", block),
            None => return Err(Status::invalid_argument("say which block to add, or to retire")),
        };
        let block = if block.is_empty() { "10.80.7.0/24".to_owned() } else { block };
        let revision = self.asked(format!("{word} block {block} of {node}"))?;
        answer(v1::ChangeNodeBlocksResponse { revision, block })
    }

    async fn update_node(
        &self,
        request: Request<v1::UpdateNodeRequest>,
    ) -> Answer<v1::UpdateNodeResponse> {
        let request = request.into_inner();
        let revision = self.asked(format!(
            "update {} cordoned={:?} draining={:?}",
            request.name, request.cordoned, request.draining
        ))?;
        answer(v1::UpdateNodeResponse { revision })
    }

    async fn reboot_nodes(
        &self,
        request: Request<v1::RebootNodesRequest>,
    ) -> Answer<v1::RebootNodesResponse> {
        let request = request.into_inner();
        let revision = self.asked(format!(
            "reboot {} parallelism={} no_drain={} back={}",
            request.nodes.join(","),
            request.parallelism,
            request.no_drain,
            request.back_deadline_ms
        ))?;
        answer(v1::RebootNodesResponse { revision, run: 7 })
    }

    async fn cancel_reboot(
        &self,
        _: Request<v1::CancelRebootRequest>,
    ) -> Answer<v1::CancelRebootResponse> {
        let revision = self.asked("cancel reboot".to_owned())?;
        answer(v1::CancelRebootResponse { revision, rebooting: vec!["h1".into()] })
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Answer<v1::RemoveNodeResponse> {
        let revision = self.asked(format!("remove node {}", request.into_inner().name))?;
        answer(v1::RemoveNodeResponse { revision, left: 0 })
    }

    type WatchStream = Answers<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let mut state = self.state()?;
        let after = request.into_inner().after_revision.unwrap_or_default();
        state.asked.push(format!("watch after {after}"));
        let Some(script) = state.watches.pop_front() else {
            return answer(Box::pin(tokio_stream::pending()));
        };
        if let Some((workloads, instances)) = state.later.take() {
            (state.workloads, state.instances) = (workloads, instances);
        }
        let ends = script.last().is_some_and(Result::is_err);
        let script = tokio_stream::iter(script);
        if ends {
            answer(Box::pin(script))
        } else {
            answer(Box::pin(script.chain(tokio_stream::pending())))
        }
    }

    async fn list_contexts(
        &self,
        _: Request<v1::ListContextsRequest>,
    ) -> Answer<v1::ListContextsResponse> {
        answer(v1::ListContextsResponse::default())
    }

    async fn revoke_context(
        &self,
        request: Request<v1::RevokeContextRequest>,
    ) -> Answer<v1::RevokeContextResponse> {
        let name = request.into_inner().context;
        let context = v1::Context { serial: "00000000000000a1".into(), name, ..Default::default() };
        answer(v1::RevokeContextResponse { contexts: vec![context], revision: 1 })
    }

    async fn get_authority(
        &self,
        _: Request<v1::GetAuthorityRequest>,
    ) -> Answer<v1::GetAuthorityResponse> {
        answer(v1::GetAuthorityResponse::default())
    }

    async fn rotate_authority(
        &self,
        _: Request<v1::RotateAuthorityRequest>,
    ) -> Answer<v1::RotateAuthorityResponse> {
        answer(v1::RotateAuthorityResponse { number: 2 })
    }

    async fn finish_rotation(
        &self,
        request: Request<v1::FinishRotationRequest>,
    ) -> Answer<v1::FinishRotationResponse> {
        let node = v1::OldNode { name: "h1".into(), ..Default::default() };
        let nodes = if request.into_inner().force { vec![node] } else { vec![] };
        answer(v1::FinishRotationResponse { nodes, ..Default::default() })
    }

    async fn issue_client(
        &self,
        _: Request<v1::IssueClientRequest>,
    ) -> Answer<v1::IssueClientResponse> {
        answer(v1::IssueClientResponse {
            certificate_pem: "the certificate".into(),
            private_key_pem: "the key".into(),
            ca_pem: "the CA".into(),
            expires_at_ms: 1_769_860_800_000,
            controller: "10.0.0.1:7443".into(),
            serial: "00000000000000a1".into(),
        })
    }

    type ConnectStream = Answers<v1::ConnectOutput>;

    /// Every instance's ports are this machine's.
    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectInput>>,
    ) -> Answer<Self::ConnectStream> {
        let mut inputs = request.into_inner();
        let request = inputs.next().await.unwrap()?.input;
        let Some(connect_input::Input::Request(request)) = request else {
            return Err(Status::invalid_argument("the first message is not the request"));
        };
        self.asked(format!("connect {}:{}", request.instance, request.port))?;
        tunnel::connect(u16::try_from(request.port).unwrap(), inputs).await
    }

    type CheckRoutesStream = Answers<v1::RouteCheck>;

    async fn check_routes(
        &self,
        request: Request<v1::CheckRoutesRequest>,
    ) -> Answer<Self::CheckRoutesStream> {
        self.asked(format!("check routes to {}", request.into_inner().instance))?;
        let checks = self.state()?.checks.clone();
        answer(Box::pin(tokio_stream::iter(checks.into_iter().map(Ok))))
    }

    type DiagnoseStream = Answers<v1::NodeDiagnosis>;

    async fn diagnose(
        &self,
        request: Request<v1::DiagnoseRequest>,
    ) -> Answer<Self::DiagnoseStream> {
        let (name, state) = (request.into_inner().node, self.state()?);
        let diagnoses = state.diagnoses.iter().filter(|of| named(&of.node, &name)).cloned();
        let diagnoses: Vec<_> = diagnoses.map(Ok).collect();
        answer(Box::pin(tokio_stream::iter(diagnoses)))
    }

    type AuditStream = Answers<v1::AuditAnswer>;

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Answer<Self::AuditStream> {
        if request.into_inner().repair {
            self.asked("repair".to_owned())?;
        }
        let audits = self.state()?.audits.clone();
        answer(Box::pin(tokio_stream::iter(audits.into_iter().map(Ok))))
    }

    type ListImagesStream = Answers<v1::NodeImages>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<Self::ListImagesStream> {
        let v1::ListImagesRequest { node, pool } = request.into_inner();
        self.asked(format!("list images node={node} pool={pool}"))?;
        let images = self.state()?.images.clone();
        let images = images.into_iter().filter(move |of| named(&of.node, &node)).map(Ok);
        answer(Box::pin(tokio_stream::iter(images)))
    }

    type RemoveImagesStream = Answers<v1::NodeImages>;

    async fn remove_images(
        &self,
        request: Request<v1::RemoveImagesRequest>,
    ) -> Answer<Self::RemoveImagesStream> {
        let v1::RemoveImagesRequest { node, pool, image, all, dry_run } = request.into_inner();
        self.asked(format!(
            "remove images node={node} pool={pool} image={image} all={all} dry_run={dry_run}"
        ))?;
        let images = self.state()?.images.clone().into_iter().map(Ok);
        answer(Box::pin(tokio_stream::iter(images)))
    }

    type PullImageStream = Answers<v1::NodeImages>;

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<Self::PullImageStream> {
        let v1::PullImageRequest { node, pool, image } = request.into_inner();
        self.asked(format!("pull image {image} node={node} pool={pool}"))?;
        let images = self.state()?.images.clone().into_iter().map(Ok);
        answer(Box::pin(tokio_stream::iter(images)))
    }

    type PushImageStream = Answers<v1::ImagesAnswer>;

    async fn push_image(
        &self,
        request: Request<Streaming<v1::PushImageInput>>,
    ) -> Answer<Self::PushImageStream> {
        let script = self.state()?.pushes.clone();
        let (sender, answers) = mpsc::channel(4);
        let state = Arc::clone(&self.0);
        tokio::spawn(push::play(request.into_inner(), script, state, sender));
        answer(Box::pin(ReceiverStream::new(answers)))
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Answer<v1::ListVolumesResponse> {
        let (request, state) = (request.into_inner(), self.state()?);
        let volumes = state.volumes.iter().filter(|volume| {
            named(&volume.instance, &request.instance) && named(&volume.node, &request.node)
        });
        answer(v1::ListVolumesResponse {
            volumes: volumes.cloned().collect(),
            revision: state.revision,
            next_page_token: String::new(),
        })
    }

    async fn remove_volume(
        &self,
        request: Request<v1::RemoveVolumeRequest>,
    ) -> Answer<v1::RemoveVolumeResponse> {
        let (request, mut state) = (request.into_inner(), self.state()?);
        state
            .volumes
            .retain(|volume| volume.instance != request.instance || volume.name != request.name);
        answer(v1::RemoveVolumeResponse { revision: state.revision })
    }

    async fn list_key_sets(
        &self,
        request: Request<v1::ListKeySetsRequest>,
    ) -> Answer<v1::ListKeySetsResponse> {
        let (name, state) = (request.into_inner().name, self.state()?);
        let sets = state.key_sets.iter().filter(|(set, _)| named(set, &name));
        let sets = sets.map(|(set, keys)| v1::KeySet { name: set.clone(), keys: keys.clone() });
        answer(v1::ListKeySetsResponse { key_sets: sets.collect(), revision: state.revision })
    }

    async fn update_key_set(
        &self,
        request: Request<v1::UpdateKeySetRequest>,
    ) -> Answer<v1::UpdateKeySetResponse> {
        let (request, mut state) = (request.into_inner(), self.state()?);
        let keys = state.key_sets.entry(request.name).or_default();
        keys.retain(|key| !request.remove.contains(key));
        keys.extend(request.add);
        answer(v1::UpdateKeySetResponse { revision: state.revision })
    }

    async fn remove_key_set(
        &self,
        request: Request<v1::RemoveKeySetRequest>,
    ) -> Answer<v1::RemoveKeySetResponse> {
        let (name, mut state) = (request.into_inner().name, self.state()?);
        state.key_sets.remove(&name).ok_or_else(|| Status::not_found("there is no such set"))?;
        answer(v1::RemoveKeySetResponse { revision: state.revision })
    }

    async fn list_registries(
        &self,
        _: Request<v1::ListRegistriesRequest>,
    ) -> Answer<v1::ListRegistriesResponse> {
        let state = self.state()?;
        let registries = state.logins.iter().map(|(host, (username, _))| v1::Registry {
            host: host.clone(),
            username: username.clone(),
            changed_at_ms: 1_769_860_800_000,
            by: "local".into(),
        });
        let registries = registries.collect();
        answer(v1::ListRegistriesResponse { registries, revision: state.revision })
    }

    async fn set_registry_login(
        &self,
        request: Request<v1::SetRegistryLoginRequest>,
    ) -> Answer<v1::SetRegistryLoginResponse> {
        let (request, mut state) = (request.into_inner(), self.state()?);
        state.logins.insert(request.host, (request.username, request.password));
        answer(v1::SetRegistryLoginResponse { revision: state.revision })
    }

    async fn remove_registry_login(
        &self,
        request: Request<v1::RemoveRegistryLoginRequest>,
    ) -> Answer<v1::RemoveRegistryLoginResponse> {
        let (host, mut state) = (request.into_inner().host, self.state()?);
        state.logins.remove(&host).ok_or_else(|| Status::not_found("there is no such login"))?;
        answer(v1::RemoveRegistryLoginResponse { revision: state.revision })
    }

    async fn certify_user(
        &self,
        request: Request<v1::CertifyUserRequest>,
    ) -> Answer<v1::CertifyUserResponse> {
        let request = request.into_inner();
        let principals = request.principals.join(",");
        self.asked(format!("certify {principals} for {} ms", request.valid_ms))?;
        answer(v1::CertifyUserResponse {
            certificate: format!("certificate of {}", request.public_key),
            expires_at_ms: 1_769_860_800_000,
        })
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let name = request.into_inner().name;
        answer(v1::ExplainResponse { subject: format!("instance/{name}"), ..Default::default() })
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        answer(self.state()?.status.clone())
    }

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Answer<v1::GetInfoResponse> {
        drop(self.state()?);
        answer(v1::GetInfoResponse {
            version: "0.1.0".into(),
            cluster_id: "c1".into(),
            cluster_cidr: "10.80.0.0/16".into(),
            zone: "dwell".into(),
            revision: 1,
            host_authority: format!("{KEY} host CA"),
            user_authority: format!("{KEY} user CA"),
            ..v1::GetInfoResponse::default()
        })
    }
}
