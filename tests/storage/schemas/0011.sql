BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0011');
CREATE TABLE benchmark (
	id INTEGER NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	uid VARCHAR(40) NOT NULL, 
	folder TEXT NOT NULL, 
	definition JSON NOT NULL, 
	num_studies INTEGER NOT NULL, 
	started FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
CREATE TABLE host (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	world_rank INTEGER NOT NULL, 
	island INTEGER NOT NULL, 
	worker INTEGER NOT NULL, 
	rank INTEGER NOT NULL, 
	node INTEGER NOT NULL, 
	hostname VARCHAR(255) NOT NULL, 
	process INTEGER NOT NULL, 
	device VARCHAR(20) NOT NULL, 
	threads INTEGER NOT NULL, processor VARCHAR(200), cores INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(study_id) REFERENCES study (id) ON DELETE CASCADE
);
CREATE TABLE journal_offset (
	study_id INTEGER NOT NULL, 
	file VARCHAR(200) NOT NULL, 
	"offset" INTEGER NOT NULL, 
	num_skipped INTEGER NOT NULL, num_quarantined INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (study_id, file), 
	FOREIGN KEY(study_id) REFERENCES study (id) ON DELETE CASCADE
);
INSERT INTO "journal_offset" VALUES(1,'root-00000.jsonl',5333,0,0);
INSERT INTO "journal_offset" VALUES(1,'launcher.jsonl',166,0,0);
CREATE TABLE ledger (
	trial_id INTEGER NOT NULL, 
	operation VARCHAR(20) NOT NULL, 
	scope VARCHAR(10) NOT NULL, 
	payload_bytes INTEGER NOT NULL, 
	overlapped BOOLEAN NOT NULL, 
	count INTEGER NOT NULL, 
	wire_bytes FLOAT NOT NULL, 
	seconds_waited FLOAT NOT NULL, 
	PRIMARY KEY (trial_id, operation, scope, payload_bytes, overlapped), 
	FOREIGN KEY(trial_id) REFERENCES trial (id) ON DELETE CASCADE
);
INSERT INTO "ledger" VALUES(1,'all_reduce','global',40,0,3,120.0,0.5);
INSERT INTO "ledger" VALUES(2,'all_reduce','global',40,0,3,120.0,0.5);
INSERT INTO "ledger" VALUES(3,'all_reduce','global',40,0,3,120.0,0.5);
INSERT INTO "ledger" VALUES(4,'all_reduce','global',40,0,3,120.0,0.5);
CREATE TABLE migration (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	number INTEGER NOT NULL, 
	from_island INTEGER NOT NULL, 
	to_island INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(study_id) REFERENCES study (id) ON DELETE CASCADE
);
INSERT INTO "migration" VALUES(1,1,1.79533377479470777514e+09,0,0,1);
CREATE TABLE "progress" (
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	train_loss FLOAT, 
	validation_loss FLOAT, 
	metric FLOAT, 
	learning_rate FLOAT, 
	wire_bytes FLOAT, 
	metrics JSON, 
	PRIMARY KEY (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trial (id) ON DELETE CASCADE
);
INSERT INTO "progress" VALUES(1,10,1,0.1,1.0,1.1,0.5,0.1,100.0,'null');
INSERT INTO "progress" VALUES(1,20,2,0.2,0.5,0.55,0.75,0.1,200.0,'null');
INSERT INTO "progress" VALUES(1,30,3,3.00000000000000044408e-01,3.33333333333333314829e-01,3.66666666666666696272e-01,8.3333333333333337034e-01,0.1,300.0,'null');
INSERT INTO "progress" VALUES(2,10,1,0.1,1.0,1.1,0.5,0.1,100.0,'null');
INSERT INTO "progress" VALUES(2,20,2,0.2,0.5,0.55,0.75,0.1,200.0,'null');
INSERT INTO "progress" VALUES(2,30,3,3.00000000000000044408e-01,3.33333333333333314829e-01,3.66666666666666696272e-01,8.3333333333333337034e-01,0.1,300.0,'null');
INSERT INTO "progress" VALUES(3,10,1,0.1,1.0,1.1,0.5,0.1,100.0,'null');
INSERT INTO "progress" VALUES(3,20,2,0.2,0.5,0.55,0.75,0.1,200.0,'null');
INSERT INTO "progress" VALUES(3,30,3,3.00000000000000044408e-01,3.33333333333333314829e-01,3.66666666666666696272e-01,8.3333333333333337034e-01,0.1,300.0,'null');
INSERT INTO "progress" VALUES(4,10,1,0.1,1.0,1.1,0.5,0.1,100.0,'null');
INSERT INTO "progress" VALUES(4,20,2,0.2,0.5,0.55,0.75,0.1,200.0,'null');
INSERT INTO "progress" VALUES(4,30,3,3.00000000000000044408e-01,3.33333333333333314829e-01,3.66666666666666696272e-01,8.3333333333333337034e-01,0.1,300.0,'null');
CREATE TABLE projection (
	trial_id INTEGER NOT NULL, 
	cluster VARCHAR(100) NOT NULL, 
	scaling VARCHAR(10) NOT NULL, 
	num_nodes INTEGER NOT NULL, 
	num_ranks INTEGER NOT NULL, 
	grows BOOLEAN NOT NULL, 
	step_seconds FLOAT NOT NULL, 
	compute_seconds FLOAT NOT NULL, 
	exposed_seconds FLOAT NOT NULL, 
	epoch_seconds FLOAT NOT NULL, 
	steps_to_target FLOAT, 
	seconds_to_target FLOAT, 
	assumptions JSON NOT NULL, 
	description JSON NOT NULL, 
	PRIMARY KEY (trial_id, cluster, scaling, num_nodes), 
	FOREIGN KEY(trial_id) REFERENCES trial (id) ON DELETE CASCADE
);
CREATE TABLE provenance (
	study_id INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	record JSON NOT NULL, 
	changes JSON NOT NULL, 
	PRIMARY KEY (study_id, version), 
	FOREIGN KEY(study_id) REFERENCES study (id) ON DELETE CASCADE
);
CREATE TABLE schedule (
	trial_id INTEGER NOT NULL, 
	rank INTEGER NOT NULL, 
	content JSON NOT NULL, 
	PRIMARY KEY (trial_id, rank), 
	FOREIGN KEY(trial_id) REFERENCES trial (id) ON DELETE CASCADE
);
CREATE TABLE study (
	id INTEGER NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	state VARCHAR(20) NOT NULL, 
	workload VARCHAR(200) NOT NULL, 
	method VARCHAR(200) NOT NULL, 
	metric VARCHAR(100) NOT NULL, 
	direction VARCHAR(10) NOT NULL, 
	target FLOAT, 
	num_trials INTEGER, 
	definition JSON NOT NULL, 
	folder TEXT NOT NULL, 
	started FLOAT NOT NULL, 
	finished FLOAT, 
	reason TEXT, uid VARCHAR(40), objectives JSON, curve_metric VARCHAR(100), num_refused INTEGER DEFAULT '0' NOT NULL, benchmark_id INTEGER REFERENCES benchmark (id) ON DELETE CASCADE, stage VARCHAR(20), repeat INTEGER, method_label VARCHAR(100), workload_label VARCHAR(100), archived BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "study" VALUES(1,'s','complete','digits_mlp','daso','accuracy','maximize',0.97,4,'{}','atoll-studies/s',1000.0,1.79533377479472064973e+09,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,0);
CREATE TABLE trial (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	island INTEGER NOT NULL, 
	worker INTEGER NOT NULL, 
	generation INTEGER NOT NULL, 
	state VARCHAR(20) NOT NULL, 
	seed INTEGER NOT NULL, 
	hyperparameters JSON NOT NULL, 
	configuration JSON NOT NULL, 
	objective FLOAT, 
	metrics JSON, 
	seconds FLOAT, 
	wire_bytes FLOAT, 
	peak_memory FLOAT, 
	host VARCHAR(255), 
	started FLOAT NOT NULL, 
	finished FLOAT, 
	reason TEXT, 
	traceback TEXT, objectives JSON, proposal JSON, oversubscribed BOOLEAN, note TEXT, provenance INTEGER, notes JSON, 
	PRIMARY KEY (id), 
	FOREIGN KEY(study_id) REFERENCES study (id) ON DELETE CASCADE, 
	UNIQUE (study_id, number, attempt)
);
INSERT INTO "trial" VALUES(1,1,0,0,0,0,0,'complete',0,'{"B": 1, "learning_rate": 0.1}','{"workload": "digits_mlp", "method": "daso", "hyperparameters": {"B": 1, "learning_rate": 0.1}}',0.9,'{"train_loss": 0.1}',2.0,120.0,1000000.0,'here',1.79533377479422807691e+09,1.7953337747943241596e+09,NULL,NULL,'null','null',NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(2,1,1,0,1,1,0,'complete',1,'{"B": 2, "learning_rate": 0.05}','{"workload": "digits_mlp", "method": "daso", "hyperparameters": {"B": 2, "learning_rate": 0.05}}',0.8,'{"train_loss": 0.1}',2.0,120.0,1000000.0,'here',1.79533377479435372349e+09,1.79533377479443478582e+09,NULL,NULL,'null','null',NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(3,1,2,0,0,0,1,'failed',2,'{"B": 3, "learning_rate": 0.03333333333333333}','{"workload": "digits_mlp", "method": "daso", "hyperparameters": {"B": 3, "learning_rate": 0.03333333333333333}}',NULL,'{"train_loss": 0.1}',2.0,120.0,1000000.0,'here',1.79533377479445815081e+09,1.79533377479453444482e+09,'Diverged',NULL,'null','null',NULL,NULL,NULL,NULL);
INSERT INTO "trial" VALUES(4,1,3,0,1,1,1,'complete',3,'{"B": 4, "learning_rate": 0.025}','{"workload": "digits_mlp", "method": "daso", "hyperparameters": {"B": 4, "learning_rate": 0.025}}',0.95,'{"train_loss": 0.1}',2.0,120.0,1000000.0,'here',1.79533377479459643364e+09,1.79533377479468655591e+09,NULL,NULL,'null','null',NULL,NULL,NULL,NULL);
CREATE INDEX ix_host_study_id ON host (study_id);
CREATE INDEX ix_migration_study_id ON migration (study_id);
CREATE INDEX trial_by_objective ON trial (study_id, state, objective);
CREATE INDEX ix_study_benchmark_id ON study (benchmark_id);
CREATE INDEX trial_by_id ON trial (study_id, id);
COMMIT;
