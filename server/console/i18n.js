// The page's words. Keys of events, reasons, alarm kinds and states are the protocol's own names.

const en = {
  other: "中文", otherLang: "zh-Hans",
  connecting: "Connecting …", live: "Live", lost: (since) => `Reconnecting since ${since}`,
  noBroker: "The server has no link to the broker. Doors go on deciding and keep their events; what they do now arrives later.",
  replaced: "The event store was replaced; the list begins anew.",
  doors: "Doors", noDoors: "No doors yet. A door appears here as soon as its agent has sent its first event.",
  asOf: (time) => `as of ${time}`, was: (state) => `was: ${state}`, since: (time) => `since ${time}`,
  heard: (time) => `last heard ${time}`, lastAccess: (who, what, time) => `${who} · ${what} · ${time}`,
  granted: "granted", denied: "denied", noAccess: "No access yet",
  events: "Events", caption: "Events, newest first", time: "Time", door: "Door", what: "What happened", who: "Who", latency: "Latency",
  latencyTitle: "from the card entering the field to the strike, or to the decision",
  noEvents: "No events yet: tap a card, or open a door.", noMatch: "No event matches the filter.",
  all: "All", usual: "All but receipts", kind: "Kind", pause: "Pause", resume: "Resume", waiting: (n) => `Resume (${n} new)`,
  late: "late", lateTitle: (time) => `arrived ${time}`, card: (id) => `card ${id}`,
  announceLost: "Connection lost, reconnecting.", announceLive: "Connected again.",
  announceMore: (what, n) => `${what}, and ${n} more alarms`,
  kinds: { access: "Access", denied: "Denials", door: "Doors", alarm: "Alarms", system: "System", routine: "Receipts" },
  contact: { open: "Open", closed: "Closed", fault: "Contact fault", unknown: "Unknown" },
  mode: { locked: "Locked", unlocked: "Unlocked", accessed: "Released", blocked: "Blocked", locked_down: "Locked down", locked_open: "Locked open", unknown: "Mode unknown" },
  alarm: { forced: "Forced open", held: "Held open", held_prealarm: "Open too long" },
  direction: { in: "in", out: "out" },
  event: {
    "access.granted": "Access granted", "access.denied": "Access denied", "access.taken": "Went through", "access.not_taken": "Did not go through", "access.duress": "Duress",
    "door.opened": "Door opened", "door.closed": "Door closed", "door.forced": "Door forced open", "door.forced.cleared": "Forced door: over",
    "door.held": "Door held open", "door.held.cleared": "Held door: closed", "door.held_prealarm": "Door open too long", "door.held_prealarm.cleared": "Door closed in time",
    "door.mode_changed": "Door mode", "door.fault": "Door hardware fault", "door.fault.cleared": "Door hardware works again", "rex.pressed": "Exit button pressed",
    "card.bound": "Card bound", "agent.started": "Agent started", "agent.clock_stepped": "Clock was moved", "agent.buffer_high": "Event store almost full",
    "agent.events_lost": "Events lost", "policy.applied": "Policy applied", "policy.rejected": "Policy rejected", "alarm.raised": "Security alarm",
    "policy.published": "Policy published", "policy.stale": "Server not heard for a while", "policy.expired": "Server not heard for too long", "policy.fresh": "Server heard again",
    "statement.rejected": "Server's word rejected", "revocation.requested": "Revoked", "revocation.applied": "Revocations applied",
    "revocation.overdue": "Revocation not confirmed in time", "revocation.overdue.cleared": "Late revocation confirmed",
    "lockdown.started": "Lockdown began", "lockdown.ended": "Lockdown ended", "lockdown.applied": "Lockdowns applied",
    "command.sent": "Command sent", "command.executed": "Command carried out", "command.refused": "Command refused",
    "root.published": "Root document published", "root.applied": "Root document applied", "certificate.applied": "Certificate renewed",
    "model.changed": "Site changed", "token.changed": "API token changed", "agent.claimed": "Agent claimed", "agent.enrolled": "Agent enrolled",
    "agent.removed": "Agent removed", "agent.online": "Agent online", "agent.offline": "Agent offline",
    "card.unbound": "Card unbound", "card.not_bound": "Card was not bound", "card.rekeyed": "Card has new keys", "card.not_rekeyed": "Card took no new keys",
    "esam.unavailable": "Lock's key chip fails", "esam.unavailable.cleared": "Lock's key chip works again", "keys.held": "Lock's keys", "keys.refused": "Lock took no new keys",
    "keys.version_made": "New key version", "keys.version_destroyed": "Old keys destroyed", "keys.floor_raised": "Old keys retired", "keys.package_made": "Key sent to a lock",
    "keys.esam_changed": "Key chip known", "keys.backed_up": "Keys backed up", "keys.restored": "Keys restored",
    "keys.transport_changed": "Transport keys changed", "keys.transport_given": "Transport key given to a lock",
    "rotation.planned": "Key rotation planned", "rotation.started": "Key rotation started", "rotation.staged": "All locks have the new keys", "rotation.activated": "New keys in force",
    "rotation.paused": "Key rotation paused", "rotation.resumed": "Key rotation goes on", "rotation.quarantined": "Lock left out of the rotation", "rotation.rolled_back": "Key rotation rolled back",
    "rotation.retired": "Old keys no longer accepted", "rotation.completed": "Key rotation completed",
  },
  after: { access: "after a grant", rex: "by the exit button", command: "after a command", mode: "door is unlocked", nothing: "without permission" },
  cause: { access: "after a grant", rex: "by the exit button", policy: "by policy", command: "by command", lockdown: "by lockdown", schedule: "by schedule", relock: "release time over", first_start: "for the first time", start: "normally", restart_after_kill: "after it was killed" },
  reason: {
    unknown_card: "unknown card", card_auth_failed: "card could not prove itself", card_revoked: "card is revoked", card_lost: "card is reported lost",
    card_stolen: "card is reported stolen", card_damaged: "card is reported damaged", card_suspended: "card is suspended", not_yet_active: "not valid yet",
    expired: "no longer valid", not_bound: "card is not bound to this door", no_rule: "no right to this door", outside_schedule: "not at this time",
    lockdown: "lockdown", door_blocked: "door is blocked", antipassback: "already inside (anti-passback)", interlock: "another door is open", occupancy_full: "area is full",
    second_person_required: "second person required", first_person_absent: "first person not there yet", wrong_pin: "wrong PIN", locked_out: "locked out after failed tries",
    key_version_retired: "card's key is retired", key_version_unsupported: "card's key version is unknown here", counter_rollback: "card's counter went back",
    policy_expired: "door's policy is too old", clock_untrusted: "door's clock can't be trusted", secure_element_unavailable: "secure element does not answer",
  },
  alarmKind: {
    bad_signature: "bad signature", malformed: "malformed message", unknown_key: "unknown key", wrong_topic: "message on a wrong topic", gap: "events are missing",
    fork: "two histories", new_chain: "new event store", broken_chain: "broken chain", events_lost: "events were lost", door_taken: "speaks for another's door",
    replayed: "replayed message", stale_report: "report of long ago", identity_cloned: "two devices with one identity", receipt_mismatch: "confirms what was never sent",
    state_behind: "agent knows more than the server", key_refused: "keys asked for that are not to be given", binding_refused: "speaks of cards that it may not bind", revocation_log_behind: "agent has revocations that the server has not",
  },
  openFor: (s) => `for ${s} s`, lostCount: (n) => `${n} events`, version: (n) => `version ${n}`, times: (n) => `${n} times`, stepped: (ms) => `by ${ms} ms`,
};

const zh = {
  other: "English", otherLang: "en",
  connecting: "正在连接…", live: "实时", lost: (since) => `自 ${since} 起正在重新连接`,
  noBroker: "服务器与消息代理的连接已断开。门仍照常判定并保存事件；现在发生的事件稍后送达。",
  replaced: "事件库已更换，列表重新开始。",
  doors: "门", noDoors: "尚无门。门端代理发出第一个事件后，门即显示在此。",
  asOf: (time) => `截至 ${time}`, was: (state) => `此前：${state}`, since: (time) => `自 ${time}`,
  heard: (time) => `最近通信 ${time}`, lastAccess: (who, what, time) => `${who} · ${what} · ${time}`,
  granted: "已放行", denied: "已拒绝", noAccess: "尚无通行记录",
  events: "事件", caption: "事件，最新在前", time: "时间", door: "门", what: "事件内容", who: "人员", latency: "延迟",
  latencyTitle: "从卡片进入感应区到锁释放或作出判定",
  noEvents: "尚无事件：请刷卡或开门。", noMatch: "没有符合筛选条件的事件。",
  all: "全部", usual: "全部（不含回执）", kind: "类别", pause: "暂停", resume: "继续", waiting: (n) => `继续（${n} 条新事件）`,
  late: "迟到", lateTitle: (time) => `送达时间 ${time}`, card: (id) => `卡 ${id}`,
  announceLost: "连接中断，正在重新连接。", announceLive: "已重新连接。",
  announceMore: (what, n) => `${what}，另有 ${n} 个报警`,
  kinds: { access: "通行", denied: "拒绝", door: "门", alarm: "报警", system: "系统", routine: "回执" },
  contact: { open: "已打开", closed: "已关闭", fault: "门磁故障", unknown: "未知" },
  mode: { locked: "已上锁", unlocked: "常开", accessed: "已释放", blocked: "禁用", locked_down: "封锁", locked_open: "锁定常开", unknown: "模式未知" },
  alarm: { forced: "强行开门", held: "门未关闭", held_prealarm: "开门过久" },
  direction: { in: "进", out: "出" },
  event: {
    "access.granted": "准许通行", "access.denied": "拒绝通行", "access.taken": "已通过", "access.not_taken": "未通过", "access.duress": "胁迫",
    "door.opened": "门打开", "door.closed": "门关闭", "door.forced": "门被强行打开", "door.forced.cleared": "强行开门解除",
    "door.held": "门长时间未关", "door.held.cleared": "未关之门已关闭", "door.held_prealarm": "开门过久", "door.held_prealarm.cleared": "门已及时关闭",
    "door.mode_changed": "门模式", "door.fault": "门硬件故障", "door.fault.cleared": "门硬件恢复", "rex.pressed": "按下出门按钮",
    "card.bound": "卡片已绑定", "agent.started": "门端代理启动", "agent.clock_stepped": "时钟被调整", "agent.buffer_high": "事件存储将满",
    "agent.events_lost": "事件丢失", "policy.applied": "策略已生效", "policy.rejected": "策略被拒绝", "alarm.raised": "安全报警",
    "policy.published": "策略已发布", "policy.stale": "一段时间未收到服务器消息", "policy.expired": "过久未收到服务器消息", "policy.fresh": "重新收到服务器消息",
    "statement.rejected": "服务器声明被拒绝", "revocation.requested": "已吊销", "revocation.applied": "吊销已生效",
    "revocation.overdue": "吊销未按时确认", "revocation.overdue.cleared": "逾期吊销已确认",
    "lockdown.started": "封锁开始", "lockdown.ended": "封锁结束", "lockdown.applied": "封锁已生效",
    "command.sent": "命令已发送", "command.executed": "命令已执行", "command.refused": "命令被拒绝",
    "root.published": "根文档已发布", "root.applied": "根文档已生效", "certificate.applied": "证书已更新",
    "model.changed": "站点已更改", "token.changed": "API 令牌已更改", "agent.claimed": "门端代理已登记", "agent.enrolled": "门端代理已注册",
    "agent.removed": "门端代理已移除", "agent.online": "门端代理在线", "agent.offline": "门端代理离线",
    "card.unbound": "卡片已解绑", "card.not_bound": "卡片未能绑定", "card.rekeyed": "卡片已换新密钥", "card.not_rekeyed": "卡片未能换新密钥",
    "esam.unavailable": "门锁安全模块故障", "esam.unavailable.cleared": "门锁安全模块恢复", "keys.held": "门锁持有的密钥", "keys.refused": "门锁未接受新密钥",
    "keys.version_made": "新密钥版本", "keys.version_destroyed": "旧密钥已销毁", "keys.floor_raised": "旧密钥已停用", "keys.package_made": "密钥已发送至门锁",
    "keys.esam_changed": "安全模块已登记", "keys.backed_up": "密钥已备份", "keys.restored": "密钥已恢复",
    "keys.transport_changed": "传输密钥已更改", "keys.transport_given": "传输密钥已交给门锁",
    "rotation.planned": "密钥轮换已计划", "rotation.started": "密钥轮换已开始", "rotation.staged": "所有门锁已有新密钥", "rotation.activated": "新密钥已启用",
    "rotation.paused": "密钥轮换已暂停", "rotation.resumed": "密钥轮换继续", "rotation.quarantined": "门锁已隔离于轮换之外", "rotation.rolled_back": "密钥轮换已回退",
    "rotation.retired": "旧密钥不再接受", "rotation.completed": "密钥轮换已完成",
  },
  after: { access: "准许后", rex: "出门按钮", command: "远程命令后", mode: "门处于常开", nothing: "未经许可" },
  cause: { access: "准许后", rex: "出门按钮", policy: "按策略", command: "按命令", lockdown: "因封锁", schedule: "按时间表", relock: "释放时间结束", first_start: "首次", start: "正常", restart_after_kill: "被终止后" },
  reason: {
    unknown_card: "未知卡", card_auth_failed: "卡片认证失败", card_revoked: "卡已吊销", card_lost: "卡已挂失", card_stolen: "卡已报被盗", card_damaged: "卡已报损",
    card_suspended: "卡已停用", not_yet_active: "尚未生效", expired: "已过期", not_bound: "卡未与此门绑定", no_rule: "无此门权限", outside_schedule: "不在允许时段",
    lockdown: "封锁中", door_blocked: "门已禁用", antipassback: "防反潜：已在内", interlock: "互锁：另一扇门开着", occupancy_full: "区域已满",
    second_person_required: "需要第二人", first_person_absent: "首位人员未到", wrong_pin: "密码错误", locked_out: "多次失败，已锁定",
    key_version_retired: "卡密钥版本已停用", key_version_unsupported: "不支持的密钥版本", counter_rollback: "卡计数器回退",
    policy_expired: "门端策略过期", clock_untrusted: "门端时钟不可信", secure_element_unavailable: "安全模块无响应",
  },
  alarmKind: {
    bad_signature: "签名错误", malformed: "消息格式错误", unknown_key: "未知密钥", wrong_topic: "主题不符", gap: "事件缺失",
    fork: "历史分叉", new_chain: "新的事件库", broken_chain: "事件链断裂", events_lost: "事件丢失", door_taken: "代其他代理的门上报",
    replayed: "消息重放", stale_report: "报告过旧", identity_cloned: "两台设备使用同一身份", receipt_mismatch: "确认了未发送的内容",
    state_behind: "代理状态比服务器新", key_refused: "请求了不应给予的密钥", binding_refused: "声称绑定了无权绑定的卡片", revocation_log_behind: "代理有服务器没有的吊销记录",
  },
  openFor: (s) => `${s} 秒`, lostCount: (n) => `${n} 条事件`, version: (n) => `版本 ${n}`, times: (n) => `${n} 次`, stepped: (ms) => `${ms} 毫秒`,
};

const languages = { en, zh };
const stored = () => { try { return localStorage.getItem("language"); } catch { return null; } };
const preferred = () => (navigator.languages ?? [navigator.language]).find((tag) => /^(en|zh)\b/i.test(tag));
let language = stored() ?? (preferred() ?? "en").slice(0, 2).toLowerCase();
if (!Object.hasOwn(languages, language)) language = "en";

export const words = () => languages[language];
export const languageTag = () => (language === "zh" ? "zh-Hans" : "en");

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  try { localStorage.setItem("language", language); } catch { /* private window: this page only */ }
}

// A word of a table, or the name itself made harmless: a newer agent may know more than this page.
export function word(table, name) {
  const found = words()[table];
  return Object.hasOwn(found, name) ? found[name] : visible(name);
}

// Text a card or device chose. Characters that steer (controls, bidi overrides, zero width) are
// spelt out, so that they can neither reorder nor hide what stands beside them.
export function visible(text) {
  const short = [...String(text ?? "")].slice(0, 160).join("");
  return short.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}
