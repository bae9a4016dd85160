-- One database for each service; postgres runs this once, on an empty volume.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
